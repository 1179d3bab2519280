"""What comes from outside, changed at random: whoever reads it ends with a declared error or reads it, nothing else.

Each reader has a short go in every run of the tests, and ten minutes with `--full`.
"""

import contextlib
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.config.load import load_config
from egrc_mega.data.reader import read_problems
from egrc_mega.errors import EgrcError
from egrc_mega.manifest import MANIFEST, write_manifest
from egrc_mega.rollout.start.process import embedded_server
from egrc_mega.rollout.wire import parse_generation, read_generation
from egrc_mega.sections.data import DataSection
from egrc_mega.testing.gloo import HANG_LIMIT_S
from egrc_mega.testing.http import call
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import RolloutRequest, Sampling

FULL_S = 600.0
EXAMPLES = 40
Check = Callable[[bytes], None]
AWKWARD = [
    b"\x00",
    b"\xff",
    b"{",
    b"]",
    b'"',
    b"\\ud800",
    b"null",
    b"-1",
    b"1e999",
    b"9" * 30,
    b"../",
    b"\r\n",
    b"[" * 600,
]


def changed(originals: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of the originals after a few cuts, insertions and replacements; sometimes anything."""
    piece = st.binary(max_size=8) | st.sampled_from(AWKWARD)
    edit = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 12), piece)

    def apply(original: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
        for place, length, new in edits:
            start = int(place * (len(original) + 1))
            original = original[:start] + new + original[start + length :]
        return original

    return st.builds(apply, st.sampled_from(originals), st.lists(edit, min_size=1, max_size=4)) | st.binary(
        max_size=200
    )


def fuzz(check: Check, originals: list[bytes], seconds: float) -> None:
    """Hold `check` against changed originals: once, or again and again until the time is over."""
    end, number = time.monotonic() + seconds, 0
    while number == 0 or time.monotonic() < end:
        quiet = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        seed(number)(quiet(given(changed(originals))(check)))()
        number += 1


@contextlib.contextmanager
def declared() -> Iterator[None]:
    """Errors for users may come, and no others."""
    with contextlib.suppress(EgrcError):
        yield


ROWS = b'{"problem": "1 + 1 = ?", "answer": "2"}\n{"problem": "2 + 2 = ?", "answer": 4}\n'


def of_data_sets(room: Path, _root: Path) -> tuple[Check, list[bytes]]:
    """Rows as lines and as an array."""
    path = room / "train.jsonl"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with declared():
            read_problems(path, DataSection(train=path, max_quarantined_share=0.9), room / "quarantine.jsonl")

    return check, [ROWS, b"[" + ROWS.replace(b"}\n{", b"},\n{") + b"]", b"\xef\xbb\xbf" + ROWS.replace(b"\n", b"\r\n")]


def of_configurations(room: Path, root: Path) -> tuple[Check, list[bytes]]:
    """The quickstart's file; its line about the run's folder as an override, too."""
    path = room / "config.yaml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        with declared():
            load_config([path], [content[:60].decode(errors="replace")])
        with declared():
            load_config([path])

    return check, [
        (root / "configs/quickstart.yaml").read_bytes(),
        b"run.seed=3",
        b"stages.compress.steps: [1, {a: b}]",
    ]


REPLY: dict[str, Any] = {
    "text": "",
    "output_ids": [5, 6, 2],
    "meta_info": {
        "id": "r",
        "finish_reason": {"type": "stop", "matched": 2},
        "completion_tokens": 3,
        "weight_version": "v1",
        "weight_versions": [{"version": "v1", "start": 0, "end": 3}],
        "output_token_logprobs": [[-0.5, 5, None], [-1.5, 6, None], [0.0, 2, None]],
        "output_token_sampling_mask": [[5, 7], [6], [1, 2, 3]],
        "output_token_sampling_logprobs": [-0.25, 0.0, -0.5],
    },
}


def of_replies(_room: Path, _root: Path) -> tuple[Check, list[bytes]]:
    """A server's reply to a request of four tokens, with and without sampling masks."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=(2,))
    request = RolloutRequest(rid="r", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=sampling, seed=1)
    cut = replace(request, sampling=replace(sampling, top_k=3))

    def check(content: bytes) -> None:
        try:
            reply = read_generation(content)
        except orjson.JSONDecodeError:  # the client makes a lost server of it
            return
        for asked in (request, cut):
            with declared():
                parse_generation(reply, asked, "http://s", 40)

    return check, [orjson.dumps(REPLY)]


def of_manifests(room: Path, _root: Path) -> tuple[Check, list[bytes]]:
    """A step's manifest."""
    step = room / "step_000001"
    step.mkdir()
    (step / "state.json").write_text('{"step": 1}')
    write_manifest(step, {}, durable=False)
    store = CheckpointStore(room, 1)

    def check(content: bytes) -> None:
        (step / MANIFEST).write_bytes(content)
        with declared():
            store.newest()

    return check, [(step / MANIFEST).read_bytes()]


READERS = [of_data_sets, of_configurations, of_replies, of_manifests]


@pytest.mark.parametrize("reader", READERS)
def test_whatever_is_read_ends_in_declared_errors_only(reader: Any, root: Path, tmp_path: Path) -> None:
    fuzz(*reader(tmp_path, root), seconds=0)


@pytest.mark.full
@pytest.mark.timeout(2 * FULL_S)
@pytest.mark.parametrize("reader", READERS)
def test_whatever_is_read_for_ten_minutes_ends_in_declared_errors_only(reader: Any, root: Path, tmp_path: Path) -> None:
    fuzz(*reader(tmp_path, root), seconds=FULL_S)


SAMPLING = {"max_new_tokens": 2, "temperature": 1, "top_p": 0.5, "top_k": 3, "sampling_seed": 7, "stop_token_ids": [2]}
BODY = orjson.dumps({"input_ids": [1, 2, 3], "sampling_params": SAMPLING, "rid": None})
REQUESTS = [
    b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
    b"POST /generate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{} \r\n0\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nExpect: 100-continue\r\n\r\n",
    b'POST /update_weights_from_disk HTTP/1.1\r\nHost: a\r\nContent-Length: 19\r\n\r\n{"model_path":"/x"}',
    b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
]
SILENT_S = 0.02
"""After so long without an answer the sender goes away: half a request gets none. Nothing is judged by it."""


def answer_to(content: bytes, place: Any) -> bytes:
    """What a server says first to one connection, which it closes when its sender has said all; empty: nothing."""
    answer = b""
    hung_up = contextlib.suppress(ConnectionError)  # before it had all
    with socket.create_connection(place, timeout=HANG_LIMIT_S) as connection, hung_up:
        connection.sendall(content)
        connection.settimeout(SILENT_S)
        with contextlib.suppress(TimeoutError):
            answer = connection.recv(65536)
        connection.settimeout(HANG_LIMIT_S)
        with contextlib.suppress(OSError):  # it has hung up just now
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    return answer


@pytest.mark.timeout(2 * FULL_S)
@pytest.mark.parametrize("seconds", [0.0, pytest.param(FULL_S, marks=pytest.mark.full)])
def test_whatever_is_sent_to_a_server_it_answers_or_hangs_up_and_serves_on(seconds: float, tmp_path: Path) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    child = embedded_server(model, port=0, weight_version="a", max_batch_size=16, log=tmp_path / "server.log")
    try:
        url = child.wait_until_ready(120)
        place = (urlsplit(url).hostname, urlsplit(url).port)

        def check(content: bytes) -> None:
            answer = answer_to(content, place)
            assert not re.match(rb"HTTP/1.\d 5", answer), answer

        fuzz(check, REQUESTS, seconds)
        status, reply = call(url + "/generate", orjson.loads(BODY))
        assert status == 200 and len(reply["output_ids"]) == 2
        assert "Traceback" not in child.log.read_text(errors="replace")
    finally:
        child.stop()
        shutil.rmtree(model)
