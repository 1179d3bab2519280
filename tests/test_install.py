"""What the scripts install and run: no CUDA that nobody has allowed, no linters where a file of tests is named."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PIP = """#!/usr/bin/env bash
# stands in for python -m pip; $OFFERS says which builds of torch there are
echo "$*" >>"$LOG"
case "$OFFERS $*" in
    none*) echo "ERROR: No matching distribution found" >&2; exit 1 ;;
    *+cpu) [[ $OFFERS = cpu ]] || { echo "ERROR: No matching distribution found" >&2; exit 1; } ;;
    cuda*--dry-run*) echo "Would install filelock-3 nvidia-cublas-13.1 torch-2.13.0" ;;
    plain*--dry-run*) echo "Would install filelock-3 torch-2.13.0" ;;
esac
"""


def install(root: Path, folder: Path, offers: str, **variables: str) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and what pip was asked to install in truth."""
    python, log = folder / "python", folder / "log"
    python.write_text(PIP)
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f". {root}/scripts/torch.sh; install_cpu_torch {python} --constraint c"],
        env=os.environ | {"OFFERS": offers, "LOG": str(log)} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = [line for line in log.read_text().splitlines() if "--dry-run" not in line]
    assert all("--constraint c" in line for line in lines)
    return done.returncode, done.stderr, [line.split()[-1] for line in lines]


@pytest.mark.parametrize(
    ("offers", "variables", "tried"),
    [
        ("cpu", {}, ["torch==2.13.0+cpu"]),
        ("plain", {}, ["torch==2.13.0+cpu", "torch==2.13.0"]),
        ("cuda", {"ALLOW_CUDA": "1"}, ["torch==2.13.0+cpu", "torch==2.13.0"]),
    ],
)
def test_the_cpu_build_is_taken_and_one_with_cuda_where_it_is_allowed(
    root: Path, tmp_path: Path, offers: str, variables: dict[str, str], tried: list[str]
) -> None:
    assert install(root, tmp_path, offers, **variables) == (0, "", tried)


def test_cuda_is_not_downloaded_without_being_told(root: Path, tmp_path: Path) -> None:
    code, said, tried = install(root, tmp_path, "cuda")
    assert (code, tried) == (1, ["torch==2.13.0+cpu"])
    first, *commands = said.splitlines()
    assert first.startswith("egrc: error: pip offers torch 2.13.0 with CUDA only, which is 5 GB")
    assert [command.split()[0] for command in commands] == ["PIP_EXTRA_INDEX_URL=URL", "ALLOW_CUDA=1"]


def test_an_index_that_is_not_reached_is_no_build_with_cuda(root: Path, tmp_path: Path) -> None:
    code, said, _tried = install(root, tmp_path, "none")
    assert (code, said) == (1, "ERROR: No matching distribution found\n")


def test_the_version_is_that_of_the_pins(root: Path) -> None:
    assert 'torch_version="2.13.0"' in (root / "scripts/torch.sh").read_text()
    assert "torch==2.13.0\n" in (root / "scripts/constraints.txt").read_text()


TOOL = '#!/usr/bin/env bash\necho "$(basename "$0") $*"\n'


@pytest.mark.parametrize(
    ("arguments", "tools"),
    [
        ([], ["ruff check", "ruff format", "mypy ", "python -P"]),
        (["--full"], ["ruff check", "ruff format", "mypy ", "python -P"]),
        (["tests/x.py", "-k", "one"], ["python -P"]),
    ],
)
def test_a_file_of_tests_is_run_without_the_linters(
    root: Path, tmp_path: Path, arguments: list[str], tools: list[str]
) -> None:
    """scripts/test.sh, in a repository whose environment has stand-ins for the tools."""
    for name in ("test.sh", "environment.sh", "torch.sh", "constraints.txt"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        (tmp_path / "scripts" / name).write_bytes((root / "scripts" / name).read_bytes())
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("ruff", "mypy", "python"):
        (tmp_path / ".venv/bin" / name).write_text(TOOL)
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    stamp = 'cat "$root"/scripts/{constraints.txt,environment.sh,torch.sh} "$root"/{setup.py,pyproject.toml} | cksum'
    stamp = f'root="{tmp_path}"; printf "%s %s\\n" "$({stamp})" "$root" >"$root/.venv/.installed"'
    subprocess.run(["bash", "-c", stamp], check=True)
    done = subprocess.run(
        ["bash", str(tmp_path / "scripts/test.sh"), *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line and not line.startswith("==")]
    assert [line for line, tool in zip(said, tools, strict=True) if not line.startswith(tool)] == []
    assert said[-1].endswith(" ".join(["not program", *arguments]))


def test_the_kernels_are_a_package_of_their_own_that_names_all_they_need(root: Path) -> None:
    project = tomllib.loads((root / "kernels/pyproject.toml").read_text())["project"]
    named = {re.match(r"\w+", line)[0] for line in project["dependencies"]}  # type: ignore[index]
    files = (root / "kernels").rglob("*.py")
    imported = {name.partition(".")[0] for file in files for name in imports_of(file)}
    assert imported - set(sys.stdlib_module_names) - {"egrc_kernels"} == named == {"torch", "triton"}


def imports_of(file: Path) -> set[str]:
    tree = ast.walk(ast.parse(file.read_text()))
    plain = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    tree = ast.walk(ast.parse(file.read_text()))
    return plain | {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.module}
