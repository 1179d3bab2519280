"""What scripts/torch.sh installs: the CPU build, or nothing where pip would bring CUDA and nobody has allowed it."""

import os
import subprocess
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
