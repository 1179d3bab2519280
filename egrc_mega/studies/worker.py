"""Runs the cells of a study that nobody else runs: one process a cell, as many at a time as there are cores.

A cell belongs to whoever holds the lock in its folder, on this host or on another that shares the folder; a lock ends
with its process, so the cell of a study that was killed is free again. Its run goes on from its last checkpoint.
"""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from egrc_mega.errors import EgrcError
from egrc_mega.lock import Lock
from egrc_mega.parent import die_with_parent
from egrc_mega.run_folder import is_held
from egrc_mega.studies.bases import keep_base, lend_base
from egrc_mega.studies.grid import Cell, Study
from egrc_mega.studies.measure import failure_of, measure
from egrc_mega.studies.records import RESULT, Result, read_result, take_folder, write_result

CLAIM, LOG, CONFIG = "claim.lock", "log.txt", "config.yaml"
POLL_S = 0.2
FREE_TIMEOUT_S = 30.0
INTERRUPTED = (130, 143)
"""Exit codes of a run that somebody has stopped."""

Say = Callable[[str], None]


def run_cells(study: Study, jobs: int, say: Say) -> None:
    """Run what is left to run, `jobs` at a time; what others hold is left to them.

    A cell whose run fails has a result that says so, and the others go on; one whose run was stopped from outside has
    none, and is run again by the next study.

    Raises:
        EgrcError: what stops the study itself, such as a full disk.
    """
    left, errors = deque(study.cells), list[BaseException]()

    def work() -> None:
        while not errors:
            try:
                cell = left.popleft()
            except IndexError:
                return
            try:
                _try_cell(cell, study, say)
            except BaseException as error:
                errors.append(error)

    # daemons: when this thread is interrupted they end, and the kernel ends the runs that they have started
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(left)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(POLL_S)
    if errors:
        raise errors[0]


def _try_cell(cell: Cell, study: Study, say: Say) -> None:
    if (cell.folder / RESULT).exists():
        return
    take_folder(cell)
    lock = Lock.take(cell.folder / CLAIM)
    if lock is None:
        say(f"{cell.name}: somebody else runs it")
        return
    try:
        if (cell.folder / RESULT).exists():  # since then it has come to its end elsewhere
            return
        if not _becomes_free(cell.folder / "run"):
            say(f"{cell.name}: its run is still going on, though the study that started it is not")
            return
        _run_cell(cell, study, say)
    finally:
        lock.release()


def _becomes_free(run_dir: Path) -> bool:
    """Whether nobody holds the run's folder any more; a run ends a moment after the study that was killed."""
    deadline = time.monotonic() + FREE_TIMEOUT_S
    while is_held(run_dir):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _run_cell(cell: Cell, study: Study, say: Say) -> None:
    begun = time.monotonic()
    lend_base(cell, study.section.dir)
    resumes = (cell.folder / "run" / "metrics.jsonl").exists()
    say(f"{cell.name}: {'goes on' if resumes else 'begins'}")
    code = _train(cell, resumes, study.section.cell_timeout_s)
    took = f"after {time.monotonic() - begun:.0f} s"
    if code is not None and (code < 0 or code in INTERRUPTED):
        say(f"{cell.name}: stopped from outside {took} (exit code {code}); the next study goes on with it")
        return
    result = _result(cell, study, code)
    write_result(cell.folder, result)
    say(f"{cell.name}: {'ended' if result.failure is None else 'failed'} {took}{_why(result)}")


def _result(cell: Cell, study: Study, code: int | None) -> Result:
    if code == 0:
        try:
            keep_base(cell, study.section.dir)
            return measure(cell, study.section.connectors)
        except EgrcError as error:
            return Result(setting=cell.setting, seed=cell.seed, failure=str(error))
    late = f"it ran for more than cell_timeout_s = {study.section.cell_timeout_s:g} s"
    reason = late if code is None else failure_of(cell.folder / LOG, code)
    return Result(setting=cell.setting, seed=cell.seed, failure=reason)


def _train(cell: Cell, resumes: bool, timeout_s: float) -> int | None:
    """The run's exit code; None: it was ended because it took too long."""
    config = cell.folder / CONFIG
    config.write_text(yaml.safe_dump(cell.config.to_dict(), sort_keys=False))
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "--config", str(config)]
    with (cell.folder / LOG).open("ab" if resumes else "wb") as log:
        process = subprocess.Popen(
            [*command, *(["--resume"] if resumes else [])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        deadline = time.monotonic() + timeout_s
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                return None
            time.sleep(POLL_S)
    return process.returncode


def _why(result: Result) -> str:
    if result.failure is not None:
        return f": {result.failure}"
    end = max(result.points, key=lambda point: (point["ordinal"], -point["temperature"]), default=None)
    if end is None or end["accuracy"] is None:
        return ""
    return (
        f": accuracy {100 * end['accuracy']:.1f} % ({end['num_ungraded']} of {end['n']} ungraded), "
        f"{end['mean_length']:.1f} tokens at T {end['temperature']:g}"
    )


def forget_failures(study: Study) -> None:
    """Remove the results of cells that have failed, so that they are run again, from the beginning."""
    for cell in study.cells:
        result = read_result(cell.folder)
        if result and result.failure is not None:
            _restart(cell.folder)


def _restart(folder: Path) -> None:
    number = 1
    run_dir = folder / "run"
    while run_dir.exists() and (aside := folder / f"run.{number}").exists():
        number += 1
    if run_dir.exists():
        run_dir.rename(aside)
    (folder / RESULT).unlink(missing_ok=True)
