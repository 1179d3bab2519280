"""`egrc doctor`: all checks, as a page or as JSON. It runs also where packages of a run are missing, and says so."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from egrc_mega.launch.doctor.finding import Finding, Verdict, worst
from egrc_mega.launch.doctor.gpu import look_for_driver
from egrc_mega.launch.doctor.packages import (
    apex_is_nvidias,
    installed_versions,
    name_finding,
    package_findings,
    python_finding,
)
from egrc_mega.plain_text import plain

STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def diagnose(config_files: Sequence[Path], overrides: Sequence[str], urls: Sequence[str], *, in_json: bool) -> int:
    """Print what was found; 1 when something fails, else 0.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    found, parts = findings(config_files, overrides, urls)
    if in_json:
        told = {"verdict": worst(found), "checks": [asdict(finding) for finding in found], "parts": parts}
        print(json.dumps(told, indent=1))
    else:
        _print_page(found, parts)
    return int(worst(found) is Verdict.FAIL)


def findings(
    config_files: Sequence[Path], overrides: Sequence[str], urls: Sequence[str]
) -> tuple[list[Finding], dict[str, str]]:
    """Of every check, in the order in which they are shown; and which implementations a run would use.

    Where packages are missing, the checks that need them are left out.
    """
    versions, driver = installed_versions(), look_for_driver()
    packages = list(package_findings(versions, has_gpu=driver.version is not None, is_true_apex=apex_is_nvidias()))
    found = [python_finding(), *packages, name_finding(Path.cwd(), versions.get("kernels"))]
    if worst(found) is Verdict.FAIL:
        left = "not made: they need the packages above"
        return [*found, Finding("further checks", Verdict.WARN, left, "mend what fails, then ask again")], {}
    # imported here: it needs what was just found to be there
    from egrc_mega.launch.doctor.further import further_findings, parts

    return [*found, *further_findings(driver, versions, config_files, overrides, urls)], parts()


def _print_page(found: Sequence[Finding], parts: dict[str, str]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    width = max(len(finding.name) for finding in found if "://" not in finding.name)
    for finding in found:
        needed = f" (needs {finding.needed})" if finding.needed not in ("", "optional") else ""
        line = Text(f"{finding.verdict.value:<4}", style=STYLES[finding.verdict])
        console.print(line.append(f"  {_shown(finding.name):<{width}}  {_shown(finding.found)}{needed}", style="none"))
        if finding.fix:
            console.print(Text(f"      -> {_shown(finding.fix)}"))
    for purpose, part in parts.items():
        console.print(Text(f"  {purpose}: {part}"))


def _shown(text: str) -> str:
    return plain(" ".join(text.split()))
