"""Ties a process to the one that started it: nothing outlives a trainer, even one that is killed."""

import ctypes
import os
import signal
import sys
from contextlib import suppress

import psutil

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


def end_stopped_children() -> None:
    """Kill what this process has started and somebody has stopped: it would not hear that all is over, and stay."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.status() == psutil.STATUS_STOPPED:
                child.kill()
