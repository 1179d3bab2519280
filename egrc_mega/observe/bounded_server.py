"""A small HTTP server that asks little of the process it is in: for pages and numbers of a run, never for a run's work.

Every connection has a deadline and ends after one answer, and only so many are served at once. A page of another site
can reach a loopback port by letting a name of its own point to it; so only requests that name this machine are answered
there. What is served changes nothing.
"""

import io
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

from egrc_mega import __version__

LOOPBACK = "127.0.0.1"
THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII | re.IGNORECASE)
"""What a request's Host may be; the port does not matter, for it may have been forwarded."""
MAX_HEAD_BYTES = 16 * 1024
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
Query = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can take of the server."""

    connections: int = 16
    """Served at once; who comes beyond is hung up on, and a page tries again."""
    head_s: float = 10.0
    """Until the head of a request is there, in seconds."""
    body_s: float = 60.0
    """Until the answer has been taken."""


@dataclass(frozen=True, slots=True)
class Resource:
    """What stands under one path."""

    content_type: str
    body: Callable[[Query], bytes]


class BoundedServer(ThreadingHTTPServer):
    """Serves the resources. Use as a context manager; `serve_forever` serves until `shutdown`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self,
        host: str,
        port: int,
        resources: Mapping[str, Resource],
        *,
        limits: Limits | None = None,
        policy: str = "default-src 'none'",
        name: str = "egrc",
    ) -> None:
        """Take the port; 0 lets the system choose.

        Args:
            resources: by path.
            policy: the answers' Content-Security-Policy.
            name: of who serves, for the line about an answer that has failed.

        Raises:
            OSError, OverflowError: it cannot be had.
        """
        self.host, self.resources, self.limits, self.policy, self.name = (
            host,
            resources,
            limits or Limits(),
            policy,
            name,
        )
        self._free = threading.BoundedSemaphore(self.limits.connections)
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{self.host}:{self.server_address[1]}/"

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
            print(f"{self.name}: an answer has failed: {error!r:.300}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    """One request, and its answer."""

    server: BoundedServer
    server_version, sys_version = f"egrc_mega/{__version__}", ""

    def setup(self) -> None:
        """Take the head of the request, within its bytes and its time; what does not come is no request."""
        super().setup()
        self.rfile.close()
        limits = self.server.limits
        self.rfile = io.BytesIO(_head_of(self.connection, limits.head_s))
        self.connection.settimeout(limits.body_s)

    def do_GET(self) -> None:
        """What stands under the path."""
        path, _, query = self.path.partition("?")
        resource = self.server.resources.get(path)
        if self.server.host == LOOPBACK and not self._names_this_machine():
            self._refuse(403, "ask for 127.0.0.1 or localhost")
        elif resource is None:
            self._refuse(404, f"there are {' and '.join(self.server.resources)}")
        else:
            self._answer(resource.content_type, resource.body(parse_qs(query)))

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


class Background:
    """A server that serves from a thread of its own, as long as this context is open."""

    def __init__(self, server: BoundedServer) -> None:
        self.server = server
        self._thread = threading.Thread(target=server.serve_forever, name=server.name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()
