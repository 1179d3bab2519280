"""What requests in flight do with their cache when weights move, what new ones may share, and what is said of it."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.versions import Versions, with_purity
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.rollout import Cache, RolloutSection
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.samples import PROMPT_IDS, make_sample
from egrc_mega.types import Completion, RolloutRequest, Sampling, VersionSpan

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=())
REQUEST = RolloutRequest(rid="r", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=SAMPLING, seed=1)


def attach(fake: FakeServer, tmp_path: Path, cache: Cache) -> Fleet:
    section = RolloutSection(server="external", urls=(fake.url,), max_restarts=3)
    return Fleet.start(section, tmp_path, "v0", tmp_path, cache=cache)


def flushes(fake: FakeServer) -> list[bool]:
    return [body["flush_cache"] for body in fake.updates]


def completion(*spans: tuple[str, int, int]) -> Completion:
    own = make_sample(range(spans[-1][2])).completion
    return replace(own, weight_versions=tuple(VersionSpan(version=v, start=s, end=e) for v, s, e in spans))


def test_to_recompute_servers_retract_their_requests_and_flush(tmp_path: Path) -> None:
    with FakeServer() as fake, attach(fake, tmp_path, "recompute") as fleet:
        for version in ("v1", "v2"):
            fleet.update_weights(FolderWeights(tmp_path, version))
        assert (fake.pause_modes, flushes(fake)) == (["retract"] * 2, [True] * 2)
        [answer] = fleet.generate([REQUEST])
        assert "extra_key" not in fake.bodies[-1]
        assert [span.pure for span in answer.weight_versions] == [True]


def test_to_keep_servers_pause_in_place_and_flush_nothing_but_what_another_run_may_have_left(tmp_path: Path) -> None:
    with FakeServer() as fake, attach(fake, tmp_path, "keep") as fleet:
        for version in ("v1", "v2", "v3"):
            fleet.update_weights(FolderWeights(tmp_path, version))
        assert (fake.pause_modes, flushes(fake)) == (["retract", "in_place", "in_place"], [True, False, False])
        [answer] = fleet.generate([REQUEST])
        assert fake.bodies[-1]["extra_key"] == "v3"
        assert [span.pure for span in answer.weight_versions] == [True]


def test_a_server_that_is_loaded_alone_after_a_loss_keeps_nothing(tmp_path: Path) -> None:
    with FakeServer() as fake, attach(fake, tmp_path, "keep") as fleet:
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        fake.fails = ["/continue_generation"]
        fleet.update_weights(FolderWeights(tmp_path, "v2"))
        assert fake.pause_modes == ["retract", "in_place", "retract"]
        assert flushes(fake) == [True, False, True]


def test_before_the_first_weights_are_everywhere_a_kept_cache_vouches_for_nothing() -> None:
    versions = Versions("keep")
    versions.announce("v0")
    assert (versions.keeps_cache, versions.cache_key()) == (False, "")
    [span] = with_purity(completion(("v0", 0, 4)), versions.cache_key()).weight_versions
    assert not span.pure


def test_the_key_of_the_cache_is_the_weights_that_are_everywhere_and_not_those_on_their_way() -> None:
    versions = Versions("keep")
    versions.announce("v0")
    versions.confirm()
    versions.announce("v1")
    assert (versions.keeps_cache, versions.cache_key()) == (True, "v0")
    versions.confirm()
    assert versions.cache_key() == "v1"
    assert Versions("recompute").cache_key() is None


@pytest.mark.parametrize(
    ("spans", "key", "pure"),
    [
        ((("v1", 0, 4),), "v1", [True]),
        ((("v1", 0, 2), ("v2", 2, 4)), "v1", [True, False]),
        # its prompt may have been read before the weights moved
        ((("v2", 0, 4),), "v1", [False]),
        ((("v2", 0, 2), ("v1", 2, 4)), "v1", [False, False]),
        ((("v1", 0, 2), ("v2", 2, 4)), None, [True, True]),
    ],
)
def test_under_a_key_only_the_first_span_is_pure_and_only_if_it_is_the_keys(
    spans: tuple[tuple[str, int, int], ...], key: str | None, pure: list[bool]
) -> None:
    assert [span.pure for span in with_purity(completion(*spans), key).weight_versions] == pure


def test_an_answer_by_weights_that_came_while_it_was_under_way_is_not_pure(tmp_path: Path) -> None:
    with FakeServer() as fake, attach(fake, tmp_path, "keep") as fleet, fleet.stream() as stream:
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        fake.holds = lambda body: True
        stream.add([REQUEST])
        deadline = time.monotonic() + 60
        while not fake.num_requests:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        fleet.update_weights(FolderWeights(tmp_path, "v2"))
        [aborted] = stream.abort()
        assert [(span.version, span.pure) for span in aborted.weight_versions] == [("v2", False)]
