"""What a run is at this moment, for those who ask while it goes on: a scraper, or `egrc top`."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from egrc_mega import __version__
from egrc_mega.observe.bounded_server import Background, BoundedServer, Limits, Resource
from egrc_mega.observe.exposition import CONTENT_TYPE, exposition
from egrc_mega.observe.pulse import PULSE
from egrc_mega.rollout.server import Server
from egrc_mega.rollout.state import State
from egrc_mega.sections.run import ObserveSection

FILE = "live.json"
"""In the run's folder, while the run goes on: what `egrc top` looks at."""
WRITE_S = 2.0
LIMITS = Limits(connections=4, head_s=5.0, body_s=10.0)
"""Of the endpoint: a scraper needs one connection."""


class Live:
    """Of rank 0. Any thread may ask: it reads what others write, and waits for nobody."""

    def __init__(self, run_dir: Path, newest: Mapping[str, Mapping[str, Any]], servers: Sequence[Server]) -> None:
        self.run_dir, self.servers = run_dir, servers
        self.newest = newest
        """The newest event of each kind (`EventLog.newest`)."""
        self.ranks: Sequence[Mapping[str, Any]] = ()
        """Where each rank can be found, in order (`observe.hangs.introduction`)."""

    def snapshot(self) -> dict[str, Any]:
        """The present state, as JSON has it; `record` is empty before the first step of this process."""
        note, record = PULSE.note, self.newest.get("step", {})
        return {
            "time": time.time(),
            "run": self.run_dir.name,
            "version": __version__,
            "phase": note.phase.partition(",")[0],
            "phase_s": time.monotonic() - note.since if note.since else 0.0,
            "recorded_at": record.get("time"),
            "record": {name: value for name, value in record.items() if name not in ("kind", "time")},
            "servers": [
                {
                    "number": number,
                    "url": server.client.url,
                    "state": server.state.value,
                    "states": [state.value for state in State],
                    "in_flight": server.in_flight,
                    "waiting": server.num_waiting,
                    "tokens_per_s": rate,
                }
                for number, (server, rate) in enumerate(zip(self.servers, self._rates(record), strict=True))
            ],
        }

    def _rates(self, record: Mapping[str, Any]) -> Sequence[float | None]:
        """Of each server in the newest step; None: not known, as of spare ones, which come last."""
        rates: list[float | None] = list(record.get("server_tokens_per_s", ()))
        return (rates + [None] * len(self.servers))[: len(self.servers)]


@contextmanager
def kept_in_a_file(live: Live, write_s: float = WRITE_S) -> Iterator[None]:
    """Write the present state, without the step's record, every other second; the file goes when the run ends."""
    path, over = live.run_dir / FILE, threading.Event()
    partial = path.with_suffix(".tmp")

    def write() -> None:
        while not over.wait(write_s):
            with suppress(OSError):  # whoever looks sees that it is old
                partial.write_bytes(orjson.dumps({**live.snapshot(), "record": None, "ranks": list(live.ranks)}))
                partial.replace(path)

    thread = threading.Thread(target=write, name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(write_s + 10.0)  # of a file system that does not answer nobody waits longer
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def metrics_endpoint(section: ObserveSection, live: Live, note: Callable[[str], None]) -> Iterator[None]:
    """Serve the numbers to Prometheus, where the configuration wants it. A port that is taken is said, and no more."""
    if section.prometheus_port is None:
        yield
        return
    place = section.prometheus_host, section.prometheus_port
    resource = Resource(CONTENT_TYPE, lambda _query: exposition(live.snapshot()).encode())
    try:
        server = BoundedServer(*place, {"/metrics": resource}, limits=LIMITS, name="egrc metrics")
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        note(f"observe.prometheus_port: {place[0]}:{place[1]} cannot be used ({reason}); the run goes on without it")
        yield
        return
    with Background(server):
        note(f"metrics for Prometheus at {server.url}metrics")
        yield
