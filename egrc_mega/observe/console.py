"""What a run says: a line of six numbers a step, lines of events between them, and a log of all of it in its folder.

On a terminal a bar stands below, and another one while responses are awaited; nothing of either where output goes to a
file, nor in the log.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from egrc_mega.observe.run_log import RunLog
from egrc_mega.plain_text import plain


class StepPrinter:
    """Shows step records. Use as a context manager: it owns the progress bar and the log."""

    def __init__(
        self, total_steps: int, console: Console | None = None, log: Path | None = None, *, is_verbose: bool = False
    ) -> None:
        """Open the log, if there is to be one.

        Args:
            log: file to which every line is appended with the time; None: none.
            is_verbose: a second line a step, with all that the first one leaves out.
        """
        # by name: while rich shows a bar, standard output is a stream of its own
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.is_verbose = is_verbose
        self._log = RunLog(log, self._print) if log else None
        self._recent: deque[float] = deque(maxlen=20)
        self._pauses: list[float] = []
        self._has_updated = True
        """In the last step; a row of steps without an update is told once."""
        self._progress: Progress | None = None
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task("training", total=total_steps)

    def note(self, text: str) -> None:
        """Print a line that is no step."""
        self._say(plain(text))

    def expect_no_updates(self) -> None:
        """A step without an update is not worth a line: nobody trains."""
        self._has_updated = False

    def note_pause(self, seconds: float) -> None:
        """An evaluation took so long: those to come are a part of the time that is left."""
        self._pauses.append(seconds)

    def show(self, record: dict[str, Any], num_pauses: int = 0) -> None:
        """Print the line of a step and move the bar.

        Args:
            num_pauses: evaluations that are to come.
        """
        self._recent.append(record["time_step_s"])
        left = (record["total_steps"] - record["step"]) * median(self._recent)
        left += num_pauses * (fmean(self._pauses) if self._pauses else 0.0)
        self._say(step_line(record, eta_s=left))
        if not record["updated"] and self._has_updated:
            self._say(f"step {record['step']}: no update (no sample with an advantage)")
        self._has_updated = record["updated"]
        if self.is_verbose:
            self._say(f"  {detail_line(record)}")
        if self._progress:
            self._progress.update(self._task, completed=record["step"], description=record["stage"])

    @contextmanager
    def bar(self, doing: str, total: float) -> Iterator[Callable[[float], None]]:
        """A bar of something that the run waits for; yields what is told how much more of it has come."""
        if self._progress is None:
            yield lambda _count: None
            return
        progress = self._progress
        task = progress.add_task(plain(doing), total=total)
        try:
            yield lambda count: progress.advance(task, count)
        finally:
            progress.remove_task(task)

    def _say(self, line: str) -> None:
        self._print(line)
        if self._log:
            self._log.write(line)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False)

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()
        if self._log:
            if error is not None:  # who prints it does so when the log is closed
                self._log.write(f"ended by {type(error).__name__}: {plain(str(error))}")
            self._log.close()


def step_line(record: dict[str, Any], eta_s: float) -> str:
    """The six numbers of a step, in columns, within 80 characters: step, accuracy with what is ungraded, length,
    entropy at temperature 1, seconds, and the time that is left."""
    place = f"{record['step']}/{record['total_steps']}"
    accuracy = f"{_share(record['accuracy'])} ({_share(record['ungraded'])} ungraded)"
    entropy = "-" if record["entropy"] is None else f"{record['entropy']:.3f}"
    return (
        f"{place:>9}  acc {accuracy:<20} len {record['length']:>7.1f}  H {entropy:<5} "
        f"{record['time_step_s']:>6.1f} s  ETA {clock(eta_s)}"
    )


def detail_line(record: dict[str, Any]) -> str:
    """What a step's line leaves out. The gradient norm stands before the loss, which on-policy says little."""
    update = (
        f"|g| {_number(record['grad_norm'])} loss {_number(record['loss'])}"
        if record["updated"]
        else "no update (no sample with an advantage)"
    )
    times = " ".join(f"{name} {record[f'time_{name}_s']:.2f}" for name in ("rollout", "grade", "train", "sync"))
    return (
        f"{record['stage']} | reward {_number(record['reward'])} "
        f"H@T{record['temperature']:g} {_number(record['entropy_rollout'])} | "
        f"kept {_share(record['kept'])} truncated {_share(record['truncated'])} | "
        f"{update} dlogp {_number(record['logprob_diff_max'])} | {record['tokens_per_s']:.0f} tok/s {_servers(record)} "
        f"| {times} s"
    )


def _servers(record: dict[str, Any]) -> str:
    said = f"{record['requests_in_flight']} in flight"
    for name, key in (
        ("queue", "queue"),
        ("lag", "version_lag_max"),
        ("requeued", "requeued_groups"),
        ("lost", "lost_requests"),
        ("restarts", "server_restarts"),
    ):
        said += f" {name} {record[key]}" if record.get(key) else ""
    rates = record["server_tokens_per_s"]
    if len(rates) > 1:
        said += f" {min(rates):.0f}-{max(rates):.0f} tok/s a server"
    return said + (f" cache {_share(record['cache_hit_rate'])}" if record.get("cache_hit_rate") else "")


def clock(seconds: float) -> str:
    """Minutes and seconds; from an hour on hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
