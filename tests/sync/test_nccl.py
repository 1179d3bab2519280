"""One NCCL on both sides of a group, checked before anything starts."""

from pathlib import Path

import pytest

from egrc_mega.errors import ConfigError
from egrc_mega.sync.nccl import check_same_nccl


def interpreter(folder: Path, version: str) -> Path:
    """Answers as a Python with that NCCL would."""
    file = folder / f"python-{version or 'none'}"
    file.write_text(f"#!/bin/sh\necho {version}\n")
    file.chmod(0o755)
    return file


def test_two_versions_of_nccl_are_refused_with_both_and_the_remedy(tmp_path: Path) -> None:
    ours, theirs = interpreter(tmp_path, "2.29.7"), interpreter(tmp_path, "2.30.7")
    with pytest.raises(
        ConfigError, match=r"trainer's is 2\.29\.7, the servers' \(.*\) 2\.30\.7; pip install --no-deps"
    ):
        check_same_nccl(theirs, ours)


def test_one_version_and_versions_that_nobody_can_tell_pass(tmp_path: Path) -> None:
    check_same_nccl(interpreter(tmp_path, "2.30.7"), interpreter(tmp_path, "2.30.7"))
    check_same_nccl(interpreter(tmp_path, "2.30.7"), interpreter(tmp_path, ""))  # the system's own, say


def test_an_interpreter_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.python: .*nowhere cannot be run"):
        check_same_nccl(tmp_path / "nowhere", interpreter(tmp_path, "1"))
