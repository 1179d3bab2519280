"""`egrc watch`: the page of a run, on loopback, while the run goes on.

It answers two questions, `/` and `/state`, and changes nothing. A page of another site can reach a loopback port by
letting a name of its own point to it; so only requests that name this machine are answered. Every connection has a
deadline and ends after one answer, and only so many are served at once.
"""

import io
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs

from egrc_mega import __version__
from egrc_mega.errors import ConfigError
from egrc_mega.report.live import LiveRun
from egrc_mega.report.page import live_page

HOST = "127.0.0.1"
THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
"""What a request's Host may be; the port does not matter, for it may have been forwarded."""
MAX_HEAD_BYTES = 16 * 1024
GONE_S = 3.0
"""A folder that is missing for so long is gone; one that is moved aside for a new run is there again at once."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can take of the server."""

    connections: int = 16
    """Served at once; who comes beyond is hung up on, and a page tries again."""
    head_s: float = 10.0
    """Until the head of a request is there, in seconds."""
    body_s: float = 60.0
    """Until the answer has been taken."""


class WatchServer(ThreadingHTTPServer):
    """Serves one run. Use as a context manager; `serve_forever` serves until `shutdown`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, run: LiveRun, port: int, limits: Limits | None = None, poll_s: float = 2.0) -> None:
        """Take the port; 0 lets the system choose.

        Raises:
            ConfigError: it cannot be had.
        """
        self.run, self.limits = run, limits or Limits()
        self.page, self.policy = live_page(run.view.name, poll_s)
        self._free = threading.BoundedSemaphore(self.limits.connections)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"--port: {HOST}:{port} cannot be used ({reason}); choose another, or 0") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Without asking how this machine is called: that may take as long as a lookup of names."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, where one is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and be free again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """A client that has gone is no error; anything else is one line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"egrc watch: an answer has failed: {error!r:.300}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    """One request, and its answer."""

    server: WatchServer
    server_version, sys_version = f"egrc_mega/{__version__}", ""

    def setup(self) -> None:
        """Take the head of the request, within its bytes and its time; what does not come is no request."""
        super().setup()
        self.rfile.close()
        limits = self.server.limits
        self.rfile = io.BytesIO(_head_of(self.connection, limits.head_s))
        self.connection.settimeout(limits.body_s)

    def do_GET(self) -> None:
        """The page, or what has changed since."""
        path, _, query = self.path.partition("?")
        if not self._names_this_machine():
            self._refuse(403, "ask for 127.0.0.1 or localhost")
        elif path == "/":
            self._answer("text/html; charset=utf-8", self.server.page)
        elif path == "/state":
            seen = parse_qs(query).get("seen", [""])[0]
            self._answer("application/json", self.server.run.reply(seen))
        else:
            self._refuse(404, "there are / and /state")

    def _names_this_machine(self) -> bool:
        hosts = self.headers.get_all("Host") or []
        return len(hosts) == 1 and THIS_MACHINE.fullmatch(hosts[0].strip()) is not None

    def _answer(self, kind: str, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", f"{self.server.policy}; frame-ancestors 'none'")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, _message: str | None = None, _explain: str | None = None) -> None:
        """For what the base class refuses; its message would repeat the request."""
        self._refuse(code, HTTPStatus(code).phrase)

    def _refuse(self, code: int, reason: str) -> None:
        self.close_connection = True
        self._answer("text/plain; charset=utf-8", f"{code}: {reason}\n".encode(), code)

    def log_message(self, _form: str, *_values: Any) -> None:
        """Say nothing: a page asks every other second."""


def _head_of(connection: socket.socket, timeout_s: float) -> bytes:
    """What comes until the empty line, or what there is when time, bytes or the client's patience are over."""
    head, deadline = b"", time.monotonic() + timeout_s
    while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES and (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            part = connection.recv(MAX_HEAD_BYTES - len(head))
        except TimeoutError:
            return b""
        if not part:
            return b""
        head += part
    return head if b"\r\n\r\n" in head else b""


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
