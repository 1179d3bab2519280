"""Ties a process to the one that started it: nothing outlives a trainer, even one that is killed."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
LAUNCHER = "EGRC_LAUNCHER_PID"
"""Variable with the number of the process that starts a node's ranks."""


def launcher() -> int | None:
    """Number of the process that has started this rank, where it has said so."""
    number = os.environ.get(LAUNCHER)
    return int(number) if number else None


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux; elsewhere nothing happens).

    Args:
        parent: number of the process that must still be the parent; when it is not, this process ends at once. None
            where nobody knows.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
