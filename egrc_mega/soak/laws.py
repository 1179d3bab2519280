"""The five laws, as assertions: they hold whatever befalls a run (docs/fault_table.md).

1. It ends, or recovers, within its deadlines.
2. No process and no file of the system is left of it.
3. Exit code and output name the cause.
4. The newest checkpoint that was committed is whole.
5. Where that is promised, it ends with the same bits as a run that nobody has disturbed.

Each function sees to one of them, and its message begins with that law.
"""

import re
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file

from egrc_mega.checkpoint.agreement import Ranks
from egrc_mega.checkpoint.retention import step_number, steps
from egrc_mega.checkpoint.verification import problem_of

POLL_S = 0.02
TAIL_LINES = 40
"""Of what a run has said, in the message of a broken law."""


class BrokenLaw(AssertionError):
    """A law does not hold."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"law {number} is broken: {message}")
        self.number = number


def require_end(process: "subprocess.Popen[Any]", limit_s: float) -> str:
    """Law 1: the process ends within so many seconds; what it has said, where that is a pipe's to tell.

    A process that does not is killed, so that nobody waits for it any more.
    """
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        said = _tail(output or "")
        raise BrokenLaw(1, f"process {process.pid} has not ended within {limit_s:g} s{said}") from None
    return output or ""


def require_no_process(family: Iterable[psutil.Process], limit_s: float = 10.0) -> None:
    """Law 2: within so many seconds none of these lives. Who does is killed, and named with its command."""
    left = _outlast(lambda: [process for process in family if _lives(process)], limit_s)
    told = []
    for process in left:
        with suppress(psutil.Error):
            told.append(f"{process.pid} ({process.status()}): {' '.join(process.cmdline())}")
            process.kill()
    if told:
        raise BrokenLaw(2, f"these processes are left: {'; '.join(told)}")


def require_no_new_file(folders: Sequence[Path], before: frozenset[Path], limit_s: float = 10.0) -> None:
    """Law 2: within so many seconds these folders hold only what they held before.

    Whatever a living process has open or mapped is that one's, and not left behind.

    Args:
        before: what `listing` has said of the same folders then.
    """
    left = _outlast(lambda: sorted(listing(folders) - before), limit_s)
    if abandoned := [str(path) for path in left if not _is_in_use(path.resolve())]:
        raise BrokenLaw(2, f"these files are left: {', '.join(abandoned)}")


def listing(folders: Sequence[Path]) -> frozenset[Path]:
    """Everything that stands in these folders, not below them; a folder that is not there holds nothing."""
    return frozenset(path for folder in folders if folder.is_dir() for path in folder.iterdir())


def require_cause(exit_code: int, said: str, *, expected: int = 0, causes: Iterable[str] = ()) -> None:
    """Law 3: a command has ended with the expected exit code, and has named each of its causes.

    Args:
        expected: exit code; negative: the number of a signal.
        causes: regular expressions; each must match within a line.
    """
    if exit_code != expected:
        raise BrokenLaw(3, f"the exit code is {exit_code}, not {expected}{_tail(said)}")
    if silent := [cause for cause in causes if not re.search(cause, said, re.MULTILINE)]:
        raise BrokenLaw(3, f"nothing was said of {silent}{_tail(said)}")


def require_whole_step(run_dir: Path, at_least: int, damaged: Collection[Path] = ()) -> int:
    """Law 4: the run's newest step is whole, and none that was committed is lost; the number of that step.

    Args:
        at_least: number of the newest step that is known to be committed; 0: none is.
        damaged: steps that somebody has spoiled on purpose; they do not count.
    """
    found = [path for path in steps(run_dir / "checkpoints") if path not in damaged]
    newest = step_number(found[-1]) if found else 0
    if newest < at_least:
        raise BrokenLaw(4, f"step {at_least} was committed, and the newest in {run_dir} is {newest}")
    if found and (problem := problem_of(found[-1], Ranks(timeout_s=60.0))):
        raise BrokenLaw(4, f"{found[-1]}: {problem}")
    return newest


def require_same_weights(run: Path, undisturbed: Path) -> None:
    """Law 5: two runs have exported the same tensors, bit by bit."""
    left, right = (load_file(folder / "export" / "model.safetensors") for folder in (run, undisturbed))
    if left.keys() != right.keys():
        raise BrokenLaw(5, f"{run} and {undisturbed} have other tensors: {sorted(left.keys() ^ right.keys())}")
    different = [name for name in left if left[name].numpy().tobytes() != right[name].numpy().tobytes()]
    if different:
        raise BrokenLaw(5, f"{run} differs from {undisturbed} in {different}")


def _outlast(look: Callable[[], list[Any]], limit_s: float) -> list[Any]:
    """What is still seen after so many seconds; nothing as soon as nothing is."""
    deadline = time.monotonic() + limit_s
    while (seen := look()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return seen


def _lives(process: psutil.Process) -> bool:
    """Whether it runs or could run again; one that nobody has collected yet is dead."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_in_use(path: Path) -> bool:
    """Whether any process that we may look at has it open or mapped (Linux)."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(link.readlink() == path for link in (process / "fd").iterdir()):
                return True
            if f" {path}\n" in (process / "maps").read_text():
                return True
    return False


def _tail(said: str) -> str:
    lines = said.splitlines()[-TAIL_LINES:]
    return "\n  ".join(["; it has said last:", *lines]) if lines else ""
