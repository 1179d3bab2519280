"""scripts/test_gpu_image.sh says what it lacks before it downloads anything; its pins are those that setup.py allows.

Not covered: its environment and what runs there, which takes longer than all other tests together.
"""

import os
import shutil
import subprocess
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement


def run(root: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a copy of the repository's scripts, on a machine with little more than a shell."""
    shutil.copytree(root / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "setup.py", tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "cksum", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or name)
    environment = {"PATH": str(programs), "HOME": str(tmp_path)} | {k: v for k, v in os.environ.items() if k == "LANG"}
    command = [programs / "bash", tmp_path / "scripts" / "test_gpu_image.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_without_python_3_12_it_says_so_and_is_skipped(root: Path, tmp_path: Path) -> None:
    result = run(root, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "SKIPPED: there is no Python 3.12 here" in result.stdout
    assert not (tmp_path / ".venv-gpu-image").exists()


def test_another_argument_is_refused(root: Path, tmp_path: Path) -> None:
    result = run(root, tmp_path, "--instal-only")
    assert result.returncode == 2
    assert "unknown argument --instal-only; usage: test_gpu_image.sh [--install-only]" in result.stderr


def test_the_images_versions_are_within_the_ranges_that_are_promised(root: Path) -> None:
    ranges = {r.name: r.specifier for r in map(Requirement, requires("egrc-mega") or []) if r.name}
    lines = [line for line in (root / "scripts" / "gpu_image.txt").read_text().splitlines() if "==" in line]
    assert len(lines) == 4
    for name, version in (line.split("==") for line in lines):
        assert version in ranges[name], name
