"""Named fault points: no-ops unless the environment variable EGRC_FAULTS arms them, as a test does.

Its entries are parted by commas. `train.before_commit@7` kills the process when that point is reached for step 7;
`checkpoint.shard@7=ENOSPC` has the point fail with that error of the operating system, `=SIGSTOP` sends that signal;
`#1` at the end keeps any of them to the rank of that number. A name without `@` switches a behaviour on, e.g.
`rollout.shuffle_requests`. Where `EGRC_FAULTS_ONCE` names a folder, each entry strikes once, however often the run is
started again, and leaves a file of its name there with the number of the process.
"""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "EGRC_FAULTS"
ONCE = "EGRC_FAULTS_ONCE"
SAVE_POINTS = (
    "checkpoint.begun",
    "checkpoint.shard",
    "checkpoint.shards_written",
    "checkpoint.state_written",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
    "checkpoint.before_pointer",
    "checkpoint.after_pointer",
    "checkpoint.pruning",
    "checkpoint.pruned",
)
"""Every point of a save, in the order in which rank 0 comes by; `shard` is reached after each file of a rank."""


UPDATE_POINTS = ("policy.forward", "policy.backward", "policy.before_optimizer", "policy.after_optimizer")
"""Points inside an update, in order. While a rank is killed at one of the first two, its peers are on their way to the
all-reduce of gradients, and learn of it there."""

_step = 0


def begin_step(step: int) -> None:
    """Say which step is under way to points that do not know it."""
    global _step
    _step = step


def armed(name: str) -> bool:
    """True when the behaviour `name` is switched on."""
    return name in _entries()


def fault_point(name: str, step: int | None = None) -> None:
    """Send this process a signal, or raise an OSError, as is asked for, if `name` is armed for this step and rank.

    Args:
        step: None: the one that is under way.
    """
    step = _step if step is None else step
    for entry in _entries():
        fault, _, rank = entry.partition("#")
        place, _, act = fault.partition("=")
        if place != f"{name}@{step}" or rank not in ("", os.environ.get("RANK", "0")):
            continue
        if not _strikes(entry):
            continue
        if act.startswith("E"):
            number = getattr(errno, act)
            raise OSError(number, os.strerror(number))
        os.kill(os.getpid(), getattr(signal, act or "SIGKILL"))


def _strikes(entry: str) -> bool:
    """False for an entry that has struck already, where each is to strike once."""
    folder = os.environ.get(ONCE)
    if not folder:
        return True
    try:
        with (Path(folder) / entry).open("x") as mark:
            mark.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


def _entries() -> Iterator[str]:
    yield from os.environ.get(VARIABLE, "").split(",")
