"""The server of the live page: for this machine only, for requests that mean it, whatever a client sends or takes."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egrc_mega.errors import ConfigError
from egrc_mega.observe.bounded_server import MAX_HEAD_BYTES, Limits
from egrc_mega.report.live import LiveRun
from egrc_mega.report.watch import WatchServer
from egrc_mega.testing import forked
from egrc_mega.testing.made_runs import write_steps

WAIT_S = 120.0
"""Of a client that waits for an answer or an end: what is not there by then never comes."""
Serve = Callable[..., WatchServer]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    run = tmp_path_factory.mktemp("run")
    write_steps(run, range(1, 4), 6)
    return LiveRun(run)


@pytest.fixture
def serve(live: LiveRun) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def started(**limits: float) -> WatchServer:
            server = stack.enter_context(WatchServer(live, 0, Limits(**limits)))  # type: ignore[arg-type]
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            return server

        yield started


def connect(server: WatchServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=WAIT_S)


def rest_of(connection: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def answer(server: WatchServer, request: str) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body."""
    with connect(server) as connection:
        connection.sendall(request.encode())
        head, _, body = rest_of(connection).decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


def get(path: str, host: str = "Host: localhost\r\n") -> str:
    return f"GET {path} HTTP/1.1\r\n{host}\r\n"


def test_it_serves_the_page_and_what_changed_on_loopback_with_a_policy(serve: Serve) -> None:
    server = serve()
    assert server.server_address[0] == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")
    status, headers, page = answer(server, get("/"))
    assert status.endswith("200 OK") and page.startswith("<!doctype html>") and headers["Connection"] == "close"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}.items() <= headers.items()
    status, headers, body = answer(server, get("/state?seen="))
    assert headers["Content-Type"] == "application/json" and json.loads(body)["light"]["state"] == "ended"
    seen = json.loads(body)["seen"]
    assert json.loads(answer(server, get(f"/state?seen={seen}"))[2])["light"] is None


NAMES_OF_OTHERS = [
    "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "evil.example@localhost", "localhost:80:80",
    "127.0.0.2", "[::1].evil.example", "localhost.", "", "127.0.0.1:999999", "localhost:", "\u0661.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", [f"Host: {name}\r\n" for name in NAMES_OF_OTHERS] + ["", "Host: localhost\r\n" * 2])
def test_a_request_that_names_another_machine_is_refused(serve: Serve, host: str) -> None:
    for path in ("/", "/state"):
        status, headers, body = answer(serve(), get(path, host))
        assert status.endswith("403 Forbidden") and headers["Content-Type"].startswith("text/plain")
        assert body == "403: ask for 127.0.0.1 or localhost\n"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:81"])
def test_any_port_of_this_machine_will_do_for_it_may_be_forwarded(serve: Serve, name: str) -> None:
    assert answer(serve(), get("/", f"Host: {name}\r\n"))[0].endswith("200 OK")


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        ("GET /../config.yaml HTTP/1.1", 404),
        ("GET /<script>alert(1)</script> HTTP/1.1", 404),
        ("GET http://localhost/state HTTP/1.1", 404),
        ("GET //state HTTP/1.1", 200),
        ("GET //[ HTTP/1.1", 404),
        ("POST /state HTTP/1.1", 501),
        ("<b>X / HTTP/1.1", 501),
    ],
)
def test_other_requests_are_answered_in_plain_text_without_what_they_said(
    serve: Serve, request_line: str, code: int
) -> None:
    status, headers, body = answer(serve(), f"{request_line}\r\nHost: localhost\r\n\r\n")
    assert status.split()[1] == str(code)
    if code != 200:
        assert headers["Content-Type"] == "text/plain; charset=utf-8" and body.startswith(f"{code}: ")
        assert "<" not in status + body


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD_BYTES, b"GET / HTTP/1.1\r\nHost: local", b"", b"\xff\x00\r\n\r\n"],
)
def test_a_head_that_is_too_long_too_slow_or_nonsense_is_hung_up_on(serve: Serve, sent: bytes) -> None:
    server = serve(head_s=0.05)
    with connect(server) as connection:
        connection.sendall(sent)
        assert b"200 OK" not in rest_of(connection)
    assert answer(server, get("/"))[0].endswith("200 OK")


def test_so_many_are_served_at_once_and_whoever_comes_beyond_is_hung_up_on(serve: Serve) -> None:
    server = serve(connections=2)
    with connect(server) as first, connect(server) as second:
        with connect(server) as third:
            assert rest_of(third) == b""
        for waiting in (first, second):
            waiting.sendall(get("/").encode())
            assert b"200 OK" in rest_of(waiting)


def test_who_does_not_take_the_answer_loses_the_place_to_others(
    serve: Serve, live: LiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "reply", lambda _seen: bytes(2**25))
    server = serve(connections=1, body_s=0.1)
    with connect(server) as lazy:
        lazy.sendall(get("/state").encode())
        # hung up on while the place is taken, served once it is free
        while not (found := _tried(server)):
            pass
        assert b"200 OK" in found


def _tried(server: WatchServer) -> bytes:
    with connect(server) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(get("/").encode())
        return rest_of(connection)
    return b""


def test_an_answer_that_fails_is_one_line_and_the_server_goes_on(
    serve: Serve, live: LiveRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_seen: str) -> bytes:
        raise KeyError("x")

    monkeypatch.setattr(live, "reply", broken)
    server = serve()
    with connect(server) as connection:
        connection.sendall(get("/state").encode())
        assert rest_of(connection) == b""
    assert answer(server, get("/"))[0].endswith("200 OK")
    assert capfd.readouterr().err == "egrc watch: an answer has failed: KeyError('x')\n"


def test_a_port_that_is_taken_is_named(live: LiveRun, serve: Serve) -> None:
    port = serve().server_address[1]
    with pytest.raises(ConfigError, match=rf"--port: 127\.0\.0\.1:{port} cannot be used \(Address already in use\)"):
        WatchServer(live, port)


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    run = tmp_path / "run"
    run.mkdir()
    write_steps(run, range(1, 4), 6)
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "watch", str(run)]
    process = forked.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process, run
    process.kill()
    process.communicate()


def test_it_says_where_it_is_and_ctrl_c_ends_it_with_one_clear_line(
    watching: tuple["subprocess.Popen[str]", Path],
) -> None:
    process, run = watching
    assert process.stdout
    said = process.stdout.readline()
    assert said.startswith(f"{run} is at http://127.0.0.1:") and "Ctrl-C" in said
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=WAIT_S)
    assert (output, errors) == ("", "egrc: the watch has ended; the run is not touched by that\n")
    assert process.returncode == 0


def test_it_ends_when_the_folder_is_gone(watching: tuple["subprocess.Popen[str]", Path]) -> None:
    process, run = watching
    assert process.stdout and process.stdout.readline()
    shutil.rmtree(run)
    output, errors = process.communicate(timeout=WAIT_S)
    assert (output, errors) == ("", f"egrc: {run} is no longer there: the watch ends\n")
    assert process.returncode == 0
