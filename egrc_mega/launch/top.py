"""`egrc top RUN`: one page of text about a run while it goes on: ranks, servers, queue, throughput, last events.

It reads the run's folder, and of ranks on this machine the note that each keeps in its memory (`observe.pulse`), also
of one that hangs. It changes nothing, and asks no server.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.text import Text

from egrc_mega.launch.status import RunStatus, look
from egrc_mega.lock import Holder
from egrc_mega.observe.console import clock
from egrc_mega.observe.pulse import read_page
from egrc_mega.plain_text import plain
from egrc_mega.report.journal import Journal
from egrc_mega.training.live import FILE

REFRESH_S = 2.0
REST = 9
"""After reading for a second nothing is read for so many, so that the run keeps its cores."""
OLD_S = 10.0
"""A state of the servers that is older is said to be so."""
MAX_EVENTS, MAX_ROWS = 8, 16
SHOWN = ("reward", "accuracy", "length", "entropy", "kept", "truncated", "grad_norm", "logprob_diff_max")


def top(run_dir: Path, *, once: bool) -> None:
    """Show the page, again and again on a terminal until the run is over or Ctrl-C, else once.

    Raises:
        RunError: the folder holds no run.
    """
    page = Page(run_dir)
    # by name: while rich shows the page, standard output is a stream of its own
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    text = page.text()
    if not once and console.is_terminal:
        try:
            with Screen(text, console=console, screen=True, auto_refresh=False) as screen:
                while page.is_running:
                    time.sleep(page.rest_s)
                    text = page.text()
                    screen.update(text, refresh=True)
        except KeyboardInterrupt:
            print("egrc: top has ended; the run is not touched by that", file=sys.stderr)
            return
    console.print(text)


class Page:
    """Of one run, read on from where it was left."""

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self.run_dir, self.now = run_dir, clock
        self.journal = Journal(run_dir / "metrics.jsonl")
        self.is_running = False
        self.rest_s = REFRESH_S

    def text(self) -> Group:
        """The page as it is now; on a narrow terminal its first line is folded, and the others are cut."""
        first, *others = self.lines()
        return Group(Text(first), Text("\n".join(others), no_wrap=True, overflow="crop"))

    def lines(self) -> list[str]:
        """The page line by line, without anything that a terminal would obey."""
        begun = time.monotonic()
        status = look(self.run_dir)
        self.journal.advance()
        self.is_running = status.state == "running"
        found = [plain(line) for line in self._lines(status)]
        self.rest_s = max(REFRESH_S, REST * (time.monotonic() - begun))
        return found

    def _lines(self, status: RunStatus) -> Iterator[str]:
        live = _live_file(self.run_dir) if self.is_running else {}
        yield from self._head(status)
        yield ""
        yield "RANKS"
        yield from _cut([_rank(n, rank) for n, rank in enumerate(live.get("ranks", ()))] or _ranks_of(status))
        yield ""
        yield from self._servers(live)
        yield ""
        yield "LAST EVENTS"
        yield from self._events()

    def _head(self, status: RunStatus) -> Iterator[str]:
        asked = "; it was asked to stop" if status.is_asked_to_stop else ""
        yield f"{status.run}: {status.state}{asked}{f' ({status.reason})' if status.reason else ''}"
        if not status.step:
            yield "no step is done yet"
            return
        seconds = self._newest("time_step_s")
        total = status.total_steps or status.step
        left = f", ETA {clock(max(0, total - status.step) * seconds)}" if seconds and self.is_running else ""
        kept = f", committed: step {status.committed_step}" if status.committed_step is not None else ""
        yield f"step {status.step}/{total}, stage {status.stage}, its step {status.step_in_stage}{left}{kept}"
        yield "  ".join(f"{name} {value:.4g}" for name in SHOWN if (value := self._newest(name)) is not None)
        times = [(n, self._newest(f"time_{n}_s")) for n in ("step", "rollout", "grade", "credit", "train", "sync")]
        yield "seconds     " + "  ".join(f"{name} {value:.2f}" for name, value in times if value is not None)
        rates = ("tokens_per_s", "train_tokens_per_s", "requests_in_flight", "queue", "lost_requests")
        told = [(name, self._newest(name)) for name in rates]
        yield "throughput  " + "  ".join(f"{name} {value:,.0f}" for name, value in told if value is not None)
        yield from self._staleness()

    def _staleness(self) -> Iterator[str]:
        """How far sampling is ahead; nothing where every token is from the weights that train on it."""
        names = ("version_lag_max", "version_lag_mean", "carried_groups", "requeued_groups")
        told = [(name, self._newest(name) or 0.0) for name in names]
        if any(value for _name, value in told):
            yield "staleness   " + "  ".join(f"{name} {value:.3g}" for name, value in told)

    def _newest(self, name: str) -> float | None:
        column = self.journal.columns.get(name)
        return column[-1] if column else None

    def _servers(self, live: Mapping[str, Any]) -> Iterator[str]:
        servers = live.get("servers", ())
        in_flight, waiting = (sum(server[name] for server in servers) for name in ("in_flight", "waiting"))
        age = self.now() - live["time"] if live else 0.0
        old = f" (as of {clock(age)} ago)" if age > OLD_S else ""
        yield f"SERVERS  {in_flight} requests in flight, queue {waiting}{old}" if live else "SERVERS  nothing is known"
        yield from _cut([_server(server) for server in servers])

    def _events(self) -> Iterator[str]:
        told = [(event.get("time"), event["kind"], event["text"]) for event in self.journal.incidents]
        told += [(event.get("time"), "switch", str(event.get("reason"))) for event in self.journal.switches]
        for moment, kind, text in sorted(told, key=lambda event: event[0] or 0.0)[-MAX_EVENTS:]:
            at = time.strftime("%H:%M:%S", time.localtime(moment)) if moment else "-"
            yield f"  {at}  {kind}: {' '.join(text.split())}"


def _live_file(run_dir: Path) -> dict[str, Any]:
    """What rank 0 has said last; nothing where there is no such file, or another version's."""
    try:
        found = json.loads((run_dir / FILE).read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _rank(number: int, rank: Mapping[str, Any]) -> str:
    """What a rank is at, where this machine can see it."""
    holder = Holder(rank["pid"], rank["started"], rank["host"])
    if holder.host != Holder.this_process().host:
        return f"  {number:>4}  {holder}, which cannot be seen from here"
    page = None if holder.is_known_dead() else read_page(holder.pid, rank["page"])
    if page is None:
        return f"  {number:>4}  {holder} is gone"
    note = page[0]
    since = f" for {clock(max(0.0, time.monotonic() - note.since))}" if note.since else ""
    awaits = f", awaits {note.awaits}" if note.awaits else ""
    return f"  {number:>4}  {holder}: {note.phase or 'between two phases'}{awaits}{since}"


def _ranks_of(status: RunStatus) -> list[str]:
    """Where they are, or were."""
    return [f"        {host}: processes {' '.join(map(str, pids))}" for host, pids in status.hosts.items()]


def _server(server: Mapping[str, Any]) -> str:
    requests = f"{server['in_flight']:>5} in flight  {server['waiting']:>5} waiting"
    rate = server.get("tokens_per_s")
    told = f"{'-' if rate is None else f'{rate:,.0f}':>7} tok/s"
    return f"  {server['number']:>4}  {server['state']:<9} {requests}  {told}  {server['url']}"


def _cut(rows: Sequence[str]) -> Iterator[str]:
    """As many rows as a page has room for."""
    yield from rows[:MAX_ROWS]
    if len(rows) > MAX_ROWS:
        yield f"        and {len(rows) - MAX_ROWS} more"
