"""The version of NCCL on both sides of a weight-update group: NCCL itself refuses a group of two."""

import subprocess
import sys
from pathlib import Path

from egrc_mega.errors import ConfigError

ASK = """
from importlib.metadata import distributions
print(*sorted({found.version for found in distributions() if found.metadata["Name"].startswith("nvidia-nccl")}))
"""
ASK_TIMEOUT_S = 60.0


def check_same_nccl(theirs: Path, ours: Path = Path(sys.executable)) -> None:
    """Compare the NCCL packages of two interpreters. One without such a package has the system's, which none can tell.

    Raises:
        ConfigError: they differ; with what to install where.
    """
    found = {python: _version(python) for python in (ours, theirs)}
    if all(found.values()) and found[ours] != found[theirs]:
        raise ConfigError(
            f"sync.transport: distributed needs one NCCL on both sides; the trainer's is {found[ours]}, the servers' "
            f"({theirs}) {found[theirs]}; pip install --no-deps the servers' nvidia-nccl package into the trainer's "
            f"environment, or take disk or ipc"
        )


def _version(python: Path) -> str:
    command = [str(python), "-I", "-c", ASK]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_TIMEOUT_S).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"rollout.python: {python} cannot be run: {error}") from error
