"""When a request of the embedded server ends, what it then says, and which weights gave which token."""

import pytest
import torch

from egrc_mega.embedded.batch import Request
from egrc_mega.embedded.sampling import Drawn, SamplingParams


def request(cap: int = 4) -> Request:
    params = SamplingParams(max_new_tokens=cap)
    return Request(rid="r", prompt_ids=[1], params=params, stop_ids=frozenset({2, 5}))


def write(one: Request, *tokens: int, version: str = "v0") -> Request:
    for token in tokens:
        one.add(Drawn(token, -0.5, None, -0.5), version)
    return one


@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_stop_token_ends_a_response_also_where_it_is_the_last_that_the_cap_allows(stop: int, before: int) -> None:
    one = write(request(), *[7] * before, stop)
    assert one.finish_reason == {"type": "stop", "matched": stop}
    assert one.future.result(0) is one


def test_without_a_stop_token_the_cap_ends_it_and_not_sooner() -> None:
    one = write(request(), 7, 7, 7)
    assert (one.finish_reason, one.future.done()) == (None, False)
    assert write(one, 7).finish_reason == {"type": "length", "length": 4}
    assert (one.output_ids, one.logprobs) == ([7] * 4, [-0.5] * 4)


def test_only_a_request_that_names_its_masks_keeps_them() -> None:
    """A nucleus without top_k, in an evaluation, say, may be most of a large vocabulary."""
    kept_V = torch.tensor([False, True, False, True])
    for names_masks, masks in ((True, [[1, 3]]), (False, [])):
        one = request()
        one.names_masks = names_masks
        one.add(Drawn(3, -0.5, kept_V, -0.25), "v0")
        assert (one.masks, one.masked_logprobs) == (masks, [-0.25] * names_masks)


def test_each_version_begins_where_its_first_token_is() -> None:
    one = write(write(write(request(9), 7, 7), 7, version="v1"), 7, version="v0")
    assert one.version_starts == [("v0", 0), ("v1", 2), ("v0", 3)]


def test_whoever_has_gone_is_no_error() -> None:
    one = request(1)
    one.future.cancel()
    assert write(one, 7).finish_reason == {"type": "length", "length": 1}
