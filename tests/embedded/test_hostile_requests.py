"""What somebody may send to a server: it answers with a refusal, closes, and serves on."""

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egrc_mega.embedded import server
from egrc_mega.rollout.keys import Keys
from egrc_mega.rollout.start.process import ServerProcess, embedded_server
from egrc_mega.testing.http import call
from egrc_mega.testing.tiny_model import write_tiny_qwen2

ROUTES = {
    "/generate": ("input_ids", "sampling_params", "rid", "stream", "return_logprob"),
    "/update_weights_from_disk": ("model_path", "weight_version", "flush_cache", "abort_all_requests"),
    "/update_weights_from_distributed": ("names", "dtypes", "shapes", "group_name", "load_format", "weight_version"),
    "/init_weights_update_group": ("master_address", "master_port", "rank_offset", "world_size", "group_name"),
    "/destroy_weights_update_group": ("group_name",),
    "/weights_checker": ("action",),
    "/abort_request": ("rid", "abort_all"),
}
PARAMETERS = ("max_new_tokens", "temperature", "top_p", "top_k", "stop_token_ids", "sampling_seed", "n", "min_p")
GOOD = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 2}}
NO_FILE = "no file is left of 64"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    base = tmp_path_factory.mktemp("server")
    model = write_tiny_qwen2(base / "model")
    child = embedded_server(model, port=0, weight_version="a", max_batch_size=16, log=base / "server.log")
    try:
        child.wait_until_ready(120)
        yield child
    finally:
        child.stop()


@pytest.fixture(scope="module")
def url(process: ServerProcess) -> str:
    return process.wait_until_ready(1)


def serves(url: str) -> bool:
    status, reply = call(url + "/generate", GOOD)
    return status == 200 and len(reply["output_ids"]) == 2


def connect(url: str, data: bytes) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    connection.sendall(data)
    return connection


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def bodies() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    def of(route: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
        fields = dict.fromkeys(ROUTES[route], ODD)
        if route == "/generate":
            params = st.fixed_dictionaries({}, optional=dict.fromkeys(PARAMETERS, ODD))
            fields |= {"input_ids": ODD | st.just([1, 2]), "sampling_params": ODD | params}
        if route == "/init_weights_update_group":
            fields["backend"] = st.just("nccl")  # nobody comes to a group of gloo, for a minute
        return st.tuples(st.just(route), st.fixed_dictionaries({}, optional=fields))

    return st.sampled_from(sorted(ROUTES)).flatmap(of)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=bodies())
def test_a_body_of_any_types_is_answered_or_refused_and_never_an_error_of_the_server(
    url: str, sent: tuple[str, dict[str, Any]]
) -> None:
    route, body = sent
    status, reply = call(url + route, body)
    assert status in (200, 400), (status, reply)


@pytest.mark.parametrize("top_k", [2**31, 2**63, 2**64 - 1])
def test_a_top_k_beyond_every_vocabulary_keeps_all_of_it(url: str, top_k: int) -> None:
    params = {"max_new_tokens": 4, "sampling_seed": 3}
    plain = call(url + "/generate", GOOD | {"sampling_params": params})[1]["output_ids"]
    status, reply = call(url + "/generate", GOOD | {"sampling_params": params | {"top_k": top_k}})
    assert (status, reply["output_ids"]) == (200, plain)


@pytest.mark.parametrize("temperature", [2**63, 2**64 - 1, 1e308, 1e-40, True])
def test_a_temperature_of_any_size_is_drawn_with(url: str, temperature: float) -> None:
    status, reply = call(
        url + "/generate", GOOD | {"sampling_params": {"temperature": temperature, "max_new_tokens": 2}}
    )
    assert (status, len(reply["output_ids"])) == (200, 2)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health HTTP/1.1\r\nExpect: \xff", 417),
        (b"GET /unknown HTTP/1.1\r\nExpect: \xff", 417),
        (b"GET /health HTTP/1.1\r\nExpect: 100-Continue", 100),
        (b"POST /generate HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", 400),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_in_a_line(
    url: str, process: ServerProcess, head: bytes, status: int
) -> None:
    fields, _, body = head.partition(b"\r\n\r\n")
    with connect(url, fields + b"\r\nHost: a\r\n\r\n" + body) as connection:
        assert connection.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())
    assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize(
    ("route", "body", "said"),
    [
        ("/generate", {"input_ids": [[1], 2]}, "input_ids has 2"),
        ("/generate", GOOD | {"rid": {"a": 1}}, "rid is {'a': 1}"),
        ("/generate", GOOD | {"sampling_params": "hot"}, "sampling_params is 'hot'"),
        ("/update_weights_from_disk", {"model_path": {"a": 1}}, "model_path"),
        ("/update_weights_from_disk", {"model_path": "a", "weight_version": 7}, "weight_version is 7"),
        ("/update_weights_from_distributed", {"names": {"a": 1}, "dtypes": [], "shapes": []}, "names"),
        ("/update_weights_from_distributed", {"names": ["a"], "dtypes": ["save"], "shapes": [[1]]}, "dtypes.0"),
        ("/update_weights_from_distributed", {"names": ["a"], "dtypes": [], "shapes": []}, "1 names, 0 dtypes"),
        ("/init_weights_update_group", {"master_address": "a"}, "master_port"),
        ("/destroy_weights_update_group", {"group_name": ["a"]}, "group_name"),
        ("/pause_generation", {"mode": {"a": 1}}, "unknown mode"),
    ],
)
def test_a_field_of_another_type_is_named(url: str, route: str, body: dict[str, Any], said: str) -> None:
    status, reply = call(url + route, body)
    assert status == 400 and said in str(reply)


def test_an_index_without_end_is_refused(url: str, tmp_path: Path) -> None:
    write_tiny_qwen2(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").symlink_to("/dev/zero")
    status, reply = call(url + "/update_weights_from_disk", {"model_path": str(tmp_path)})
    assert status == 400 and "model.safetensors.index.json" in reply["message"]
    assert serves(url)


def test_a_key_of_bytes_that_are_no_text_does_not_open() -> None:
    received = b"Bearer \xff\xfe".decode("utf-8", "surrogateescape")
    assert not Keys(api="secret").admits("/generate", received)
    assert Keys(api="secret").admits("/generate", "Bearer secret")


def test_a_server_listens_on_loopback(process: ServerProcess, url: str) -> None:
    connections = psutil.Process(process.process.pid).net_connections()
    listening = [each.laddr for each in connections if each.status == psutil.CONN_LISTEN]
    assert {address.ip for address in listening} == {"127.0.0.1"} and urlsplit(url).hostname == "127.0.0.1"


def test_a_body_or_a_head_that_is_too_large_is_refused(url: str) -> None:
    head = b"POST /generate HTTP/1.1\r\nHost: a\r\n"
    size = server.MAX_BODY_BYTES + 1
    with connect(url, head + f"Content-Length: {size}\r\n\r\n".encode()) as connection:
        with contextlib.suppress(ConnectionError):  # it may hang up before it has all
            connection.sendall(b" " * size)
        assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]
    with connect(url, head + b"X-Large: " + b"x" * 20_000 + b"\r\n\r\n") as connection:
        assert b" 400 " in connection.recv(4096).partition(b"\r\n")[0]
    assert serves(url)


def test_a_body_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_TIMEOUT_S", 0.2)

    async def waits_for_a_body(http: web.Request) -> web.Response:
        return web.json_response(await server._json(http))

    async def send_half_of_it() -> bytes:
        app = web.Application()
        app.router.add_post("/generate", waits_for_a_body)
        async with TestServer(app) as running:
            reader, writer = await asyncio.open_connection(running.host, running.port)
            writer.write(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            async with asyncio.timeout(60):
                answer = await reader.readline()
            writer.close()
            return answer

    assert b" 408 " in asyncio.run(send_half_of_it())


def test_a_head_that_never_ends_is_given_up(url: str) -> None:
    with connect(url, b"POST /generate HTTP/1.1\r\nHost: a\r\n") as connection:
        connection.settimeout(120)
        assert connection.recv(4096) == b""
    assert serves(url)


def test_more_connections_than_files_cost_a_line_and_no_request(process: ServerProcess, url: str) -> None:
    pid = process.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, limits[1]))
        held = [connect(url, b"POST /gen") for _ in range(100)]
        deadline = time.monotonic() + 60
        while NO_FILE not in process.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(2)  # for more lines of the kind
    finally:
        for connection in held:
            connection.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert serves(url)
    lines = process.log.read_text().splitlines()
    assert sum(NO_FILE in line for line in lines) == 1 and len(lines) < 20
