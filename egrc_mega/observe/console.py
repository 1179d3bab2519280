"""One line per step: below it a progress bar on a terminal, nothing else where output goes to a file."""

from collections import deque
from statistics import median
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from egrc_mega.plain_text import plain


class StepPrinter:
    """Shows step records. Use as a context manager: it owns the progress bar."""

    def __init__(self, total_steps: int, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._recent: deque[float] = deque(maxlen=20)
        self._progress: Progress | None = None
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task("training", total=total_steps)

    def note(self, text: str) -> None:
        """Print a line that is no step."""
        self.console.print(plain(text), markup=False)

    def show(self, record: dict[str, Any]) -> None:
        """Print the line of a step and move the bar."""
        self._recent.append(record["time_step_s"])
        left = record["total_steps"] - record["step"]
        self.console.print(step_line(record, eta_s=left * median(self._recent)), markup=False)
        if self._progress:
            self._progress.update(self._task, completed=record["step"], description=record["stage"])

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()


def step_line(record: dict[str, Any], eta_s: float) -> str:
    """The line of a step. The gradient norm stands before the loss, which on-policy says little."""
    update = (
        f"|g| {_number(record['grad_norm'])} loss {_number(record['loss'])}"
        if record["updated"]
        else "no update (no sample with an advantage)"
    )
    times = " ".join(f"{name} {record[f'time_{name}_s']:.2f}" for name in ("rollout", "grade", "train", "sync"))
    servers = f"{record['requests_in_flight']} in flight"
    for name, key in (
        ("queue", "queue"),
        ("lag", "version_lag_max"),
        ("lost", "lost_requests"),
        ("restarts", "server_restarts"),
    ):
        servers += f" {name} {record[key]}" if record.get(key) else ""
    rates = record["server_tokens_per_s"]
    if len(rates) > 1:
        servers += f" {min(rates):.0f}-{max(rates):.0f} tok/s a server"
    if record.get("cache_hit_rate"):
        servers += f" cache {_share(record['cache_hit_rate'])}"
    return (
        f"{record['step']}/{record['total_steps']} {record['stage']} | reward {_number(record['reward'])} "
        f"acc {_share(record['accuracy'])} len {record['length']:.1f} | "
        f"H {_number(record['entropy'])} H@T{record['temperature']:g} {_number(record['entropy_rollout'])} | "
        f"kept {_share(record['kept'])} ungraded {_share(record['ungraded'])} "
        f"truncated {_share(record['truncated'])} | "
        f"{update} dlogp {_number(record['logprob_diff_max'])} | {record['tokens_per_s']:.0f} tok/s {servers} | "
        f"{times} s | "
        f"ETA {int(eta_s) // 60}:{int(eta_s) % 60:02d}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"
