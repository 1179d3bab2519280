"""`egrc watch`: the page of a run, on loopback, while the run goes on.

It answers two questions, `/` and `/state`, and changes nothing: see `observe.bounded_server`.
"""

import sys
import threading
import time
from pathlib import Path

from egrc_mega.errors import ConfigError
from egrc_mega.observe.bounded_server import LOOPBACK, BoundedServer, Limits, Query, Resource
from egrc_mega.report.live import LiveRun
from egrc_mega.report.page import live_page

GONE_S = 3.0
"""A folder that is missing for so long is gone; one that is moved aside for a new run is there again at once."""


class WatchServer(BoundedServer):
    """Serves one run. Use as a context manager; `serve_forever` serves until `shutdown`."""

    def __init__(self, run: LiveRun, port: int, limits: Limits | None = None, poll_s: float = 2.0) -> None:
        """Take the port; 0 lets the system choose.

        Raises:
            ConfigError: it cannot be had.
        """
        self.run = run
        page, policy = live_page(run.view.name, poll_s)
        resources = {
            "/": Resource("text/html; charset=utf-8", lambda _query: page),
            "/state": Resource("application/json", self._state),
        }
        try:
            super().__init__(LOOPBACK, port, resources, limits=limits, policy=policy, name="egrc watch")
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"--port: {LOOPBACK}:{port} cannot be used ({reason}); choose another, or 0") from error

    def _state(self, query: Query) -> bytes:
        """What has changed since."""
        return self.run.reply(query.get("seen", [""])[0])


def watch(run_dir: Path, port: int, gone_s: float = GONE_S) -> None:
    """Serve the page of a run until Ctrl-C, or until its folder is gone.

    Args:
        gone_s: see GONE_S.

    Raises:
        RunError: there is nothing that a page could show.
        ConfigError: the port cannot be had.
    """
    run = LiveRun(run_dir)
    with WatchServer(run, port) as server:
        # the first look takes longest: before anybody waits for it
        run.reply("")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            print(f"{run_dir} is at {server.url} while this runs; Ctrl-C ends this, and not the run", flush=True)
            _wait_until_gone(run, gone_s)
            print(f"egrc: {run_dir} is no longer there: the watch ends", file=sys.stderr)
        except KeyboardInterrupt:
            print("egrc: the watch has ended; the run is not touched by that", file=sys.stderr)
        finally:
            server.shutdown()


def _wait_until_gone(run: LiveRun, gone_s: float) -> None:
    there = time.monotonic()
    while time.monotonic() - there < gone_s:
        time.sleep(min(0.5, gone_s))
        if not run.is_gone():
            there = time.monotonic()
