"""Which weights a reply's tokens may come from: in every place where a stale one may stand."""

from dataclasses import replace

import pytest

from egrc_mega.rollout.versions import Versions
from egrc_mega.testing.samples import make_sample
from egrc_mega.types import Completion, VersionSpan


def completion(*spans: tuple[str, int, int]) -> Completion:
    own = make_sample(range(spans[-1][2])).completion
    return replace(own, weight_versions=tuple(VersionSpan(version=v, start=s, end=e) for v, s, e in spans))


@pytest.fixture
def versions() -> Versions:
    """v0, v1 and v2 are everywhere; v3 is on its way."""
    known = Versions()
    for name in ("v0", "v1", "v2"):
        known.announce(name)
        known.confirm()
    known.announce("v3")
    return known


def test_before_any_weights_were_confirmed_a_server_may_call_them_anything() -> None:
    known = Versions()
    known.announce("v0")
    assert known.since_now() == 0
    assert known.stale(completion(("whatever", 0, 4)), 0, known.since_now()) is None


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_reply_of_the_current_weights_or_of_those_on_their_way_is_fresh(versions: Versions, version: str) -> None:
    assert versions.stale(completion((version, 0, 4)), 0, versions.since_now()) is None


@pytest.mark.parametrize("version", ["v0", "v1", "v4", "v2-incomplete", ""])
def test_a_reply_of_earlier_or_unknown_weights_is_stale(versions: Versions, version: str) -> None:
    line = versions.stale(completion((version, 0, 4)), 0, versions.since_now())
    assert line == f"sampled from weights {version!r}, current are ['v2', 'v3']"


@pytest.mark.parametrize(
    "spans",
    [
        (("v1", 0, 2), ("v2", 2, 4)),
        (("v2", 0, 2), ("v1", 2, 4)),
        (("v2", 0, 1), ("v1", 1, 2), ("v3", 2, 4)),
        (("v2", 0, 3), ("v1", 3, 4)),
    ],
)
def test_one_stale_span_anywhere_is_enough(versions: Versions, spans: tuple[tuple[str, int, int], ...]) -> None:
    assert versions.stale(completion(*spans), 0, versions.since_now()) is not None


def test_what_an_earlier_step_has_begun_may_be_old_and_what_follows_may_not(versions: Versions) -> None:
    mark = versions.since_now()
    assert versions.stale(completion(("v0", 0, 2), ("v2", 2, 4)), 2, mark) is None
    assert versions.stale(completion(("v0", 0, 2), ("v2", 2, 4)), 1, mark) is not None
    # a span that begins in the old part and goes on behind it: the server still has old weights
    assert versions.stale(completion(("v0", 0, 4)), 2, mark) is not None
    assert versions.stale(completion(("v0", 0, 1), ("v1", 1, 4)), 2, mark) is not None


def test_a_request_may_be_answered_by_weights_that_came_while_it_was_under_way(versions: Versions) -> None:
    mark = versions.since_now()
    versions.confirm()
    versions.announce("v4")
    for version in ("v2", "v3", "v4"):
        assert versions.stale(completion((version, 0, 4)), 0, mark) is None
    # one that is sent now may not come from v2 any more
    assert versions.stale(completion(("v2", 0, 4)), 0, versions.since_now()) is not None


def test_what_is_confirmed_is_what_was_announced_last_also_where_one_before_it_never_arrived() -> None:
    known = Versions()
    for name in ("v0", "v1", "v2"):
        known.announce(name)
    known.confirm()
    assert known.stale(completion(("v2", 0, 4)), 0, known.since_now()) is None
    assert known.stale(completion(("v1", 0, 4)), 0, known.since_now()) is not None


def test_after_the_first_confirmed_weights_every_name_is_held_against_them() -> None:
    known = Versions()
    known.announce("v0")
    known.confirm()
    assert known.stale(completion(("whatever", 0, 4)), 0, known.since_now()) is not None


def test_nothing_new_is_never_stale() -> None:
    known = Versions()
    for name in ("v0", "v1"):
        known.announce(name)
        known.confirm()
    # aborted where it was begun: not a token more
    assert known.stale(completion(("v0", 0, 4)), 4, known.since_now()) is None


def test_whoever_listens_hears_of_weights_once_every_server_has_them(versions: Versions) -> None:
    heard: list[str] = []
    versions.listeners.append(heard.append)
    before = versions.newest
    versions.announce("v9")
    assert versions.newest == before and not heard
    versions.confirm()
    assert versions.newest == "v9" and heard == ["v9"]
    assert Versions().newest is None
