"""A progress bar in bytes with rate and time left, on a terminal; one line at the end, anywhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def byte_progress(total: int, doing: str, target: Path | None = None) -> Iterator[Callable[[int], None]]:
    """Yields what is to be told of every batch of bytes; at the end it names the target, if there is one.

    On stderr: stdout is for results.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(file=sys.stderr)
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda count: progress.advance(task, count)
    seconds = time.monotonic() - started
    rate = decimal(int(total / max(seconds, 1e-9)))
    print(f"{doing}: {decimal(total)} in {seconds:.1f} s ({rate}/s){f': {target}' if target else ''}", file=sys.stderr)
