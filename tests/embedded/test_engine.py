"""The embedded server's engine without a request under way: what it counts, keeps and puts back."""

import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.embedded.batch import Request
from egrc_mega.embedded.engine import Engine
from egrc_mega.embedded.sampling import SamplingParams


def request(rid: str) -> Request:
    return Request(rid, [1, 2], SamplingParams(), frozenset({0}))


@pytest.fixture
def engine() -> Engine:
    """One whose thread has not begun, with three running requests in two batches, and one that waits."""
    idle = Engine.__new__(Engine)
    batches: list[Any] = [SimpleNamespace(rows=[request("a"), request("b")]), SimpleNamespace(rows=[request("c")])]
    idle._batches, idle._waiting, idle._wake = batches, deque([request("d")]), threading.Condition()
    return idle


def test_the_load_counts_requests_and_not_batches(engine: Engine) -> None:
    assert engine.load == (3, 1)


def test_retracted_requests_wait_before_all_others_in_their_order(engine: Engine) -> None:
    engine.pause("retract")
    assert [waiting.rid for waiting in engine._waiting] == ["a", "b", "c", "d"]
    assert [waiting.num_retractions for waiting in engine._waiting] == [1, 1, 1, 0]
    assert engine.load == (0, 4)


def test_an_update_without_a_version_keeps_the_one_that_is_served(base_model: Path) -> None:
    served = Engine(base_model, "v3", max_batch_size=4)
    served.run(lambda: served.update_weights(base_model, None)).result(60)
    assert served.version == "v3"
    served.run(lambda: served.update_weights(base_model, "v4")).result(60)
    assert served.version == "v4"


def test_a_request_for_no_token_has_a_draw_for_the_one_that_it_gets() -> None:
    assert [len(SamplingParams(max_new_tokens=n).uniforms()) for n in (0, 1, 2)] == [1, 1, 2]
