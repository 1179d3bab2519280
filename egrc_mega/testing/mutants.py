"""Breaks the code on purpose, one line at a time, and asks the nearest tests whether they notice.

`tests/mutants.jsonl` has one change a line. Each is made in a copy of the tree, so nothing of the tree itself moves. A
change that no test can see because it changes nothing is called `equivalent`, with the reason, and not run.

    python -m egrc_mega.testing.mutants [ids ...] [--jobs 2] [--timeout-s 600] [--out FILE]
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

ROOT = Path(__file__).parents[2]
MUTANTS = ROOT / "tests" / "mutants.jsonl"
COPIED = ("egrc_mega", "kernels", "tests", "configs", "pyproject.toml")
MIN_KILLED = 0.9
"""Share of the mutants that are no equivalents."""
PASSED, FAILED, BROKEN = 0, 1, 2
"""Exit codes of pytest: a mutant that cannot be imported ends with the last one, and has been noticed as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change of one file."""

    id: str
    file: str
    """Path from the repository's root."""
    old: str = ""
    """Occurs exactly once in the file."""
    new: str = ""
    tests: list[str] = field(default_factory=list)
    """The nearest tests: files or folders from the repository's root."""
    equivalent: str = ""
    """Why no test can notice it; empty: one should."""

    def apply(self, root: Path) -> None:
        """Make the change in a copy of the tree.

        Raises:
            ValueError: `old` is not there exactly once: the code has moved on, and the mutant must follow.
        """
        path = root / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"mutant {self.id}: its `old` stands {text.count(self.old)} times in {self.file}")
        path.write_text(text.replace(self.old, self.new))


def read_mutants(path: Path = MUTANTS) -> list[Mutant]:
    """All of them, in order."""
    return [Mutant(**orjson.loads(line)) for line in path.read_bytes().splitlines()]


def verdict(root: Path, mutant: Mutant, timeout_s: float) -> tuple[str, str]:
    """`killed`, `survived`, `timed out` or `failed to run`, and the last lines of what pytest said."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = copied(root, Path(folder))
        mutant.apply(tree)
        code, output = run_tests(tree, mutant.tests, timeout_s)
    verdicts = {None: "timed out", PASSED: "survived", FAILED: "killed", BROKEN: "killed"}
    return verdicts.get(code, "failed to run"), output


def copied(root: Path, target: Path) -> Path:
    """What the tests need of the tree, in a folder of its own."""
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / name, target / name)
    return target


def run_tests(tree: Path, tests: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
    """The exit code of pytest, None where it took too long, and the end of its output."""
    paths = os.pathsep.join([str(tree), str(tree / "kernels")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # a session of its own: with it end the servers and ranks that the tests have started
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _nothing = process.communicate(timeout=timeout_s)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired as error:
        code, output = None, (error.output or b"").decode(errors="replace")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return code, "\n".join(output.splitlines()[-4:])


def run(mutants: Sequence[Mutant], jobs: int, timeout_s: float, root: Path = ROOT) -> dict[str, list[str]]:
    """Ids by verdict; a line is printed for each mutant as soon as it has one."""
    found: dict[str, list[str]] = {"killed": [], "survived": [], "equivalent": []}
    found["equivalent"] = [mutant.id for mutant in mutants if mutant.equivalent]
    due = [mutant for mutant in mutants if not mutant.equivalent]

    def judged(mutant: Mutant) -> str:
        kind, output = verdict(root, mutant, timeout_s)
        print(f"{kind:13} {mutant.id:20} {mutant.file}", flush=True)
        if kind == "failed to run":
            print(output, flush=True)
        return kind

    with ThreadPoolExecutor(jobs) as pool:
        for mutant, kind in zip(due, pool.map(judged, due), strict=True):
            found.setdefault(kind, []).append(mutant.id)
    return found


def check_unbroken(mutants: Sequence[Mutant], timeout_s: float, root: Path = ROOT) -> None:
    """Run the tests on an unchanged copy: where they fail without a mutant, they say nothing about one.

    Raises:
        SystemExit: they fail.
    """
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        code, output = run_tests(copied(root, Path(folder)), tests, timeout_s)
    if code != PASSED:
        raise SystemExit(f"the tests do not pass without a mutant (exit code {code}):\n{output}")


def share_killed(found: dict[str, list[str]]) -> float:
    """Of the mutants that are no equivalents; one that timed out counts as alive, for a busy machine is slow too."""
    counts = Counter({kind: len(ids) for kind, ids in found.items() if kind != "equivalent"})
    return counts["killed"] / counts.total() if counts.total() else 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module. The exit code is 1 when too many live."""
    parser = argparse.ArgumentParser(prog="scripts/mutants.sh", description=__doc__)
    parser.add_argument("ids", nargs="*", help="only these; default: all")
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2), help="at a time")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="for the tests of one mutant")
    parser.add_argument("--mutants", type=Path, default=MUTANTS, help="another file of mutants")
    parser.add_argument("--out", type=Path, help="where to write the summary as JSON")
    chosen = parser.parse_args(arguments)
    mutants = read_mutants(chosen.mutants)
    if unknown := sorted(set(chosen.ids) - {mutant.id for mutant in mutants}):
        parser.error(f"{chosen.mutants} has no {', '.join(unknown)}")
    due = [mutant for mutant in mutants if mutant.id in chosen.ids or not chosen.ids]
    if any(not mutant.equivalent for mutant in due):
        check_unbroken([mutant for mutant in due if not mutant.equivalent], chosen.timeout_s * chosen.jobs)
    found = run(due, chosen.jobs, chosen.timeout_s)
    share = share_killed(found)
    summary = orjson.dumps({**found, "share_killed": round(share, 4)}, option=orjson.OPT_INDENT_2)
    if chosen.out:
        chosen.out.write_bytes(summary)
    print(summary.decode())
    print(", ".join(f"{len(ids)} {kind}" for kind, ids in found.items()), f"({share:.0%} of the non-equivalent)")
    return int(share < MIN_KILLED)


if __name__ == "__main__":
    sys.exit(main())
