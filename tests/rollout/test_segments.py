"""Rollouts in segments on a live server: the environment's tokens, the cap, the masks, the log-probs."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from egrc_mega.policy.engine import Policy
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.testing.samples import PROMPT_IDS, contents, make_train_sample
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import Completion, FinishReason, RolloutRequest, Sampling

EVERY = tuple(range(10, 30))


class Annotator:
    """Writes 7 8 after every second token in 10..29, and never looks at anything but its arguments."""

    stop_token_ids = EVERY

    def write(self, prompt_ids: np.ndarray, output_ids: np.ndarray, rng: random.Random) -> list[int]:
        assert prompt_ids.tolist() == PROMPT_IDS.tolist()
        assert output_ids[-1] in EVERY
        return [7, 8] if rng.random() < 0.5 else []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def fleet(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet.start(RolloutSection(), model, "v0", tmp_path_factory.mktemp("logs")) as running:
        yield running


def requests(prefix: str, cap: int = 40, count: int = 24, temperature: float = 0.8) -> list[RolloutRequest]:
    sampling = Sampling(temperature=temperature, top_p=1.0, max_new_tokens=cap, stop_token_ids=(2,))
    return [
        RolloutRequest(rid=f"{prefix}{i:03d}", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=sampling, seed=i)
        for i in range(count)
    ]


def tokens(completions: list[Completion]) -> list[tuple]:
    """What was written, with log-probs bit by bit, whatever the requests and weights were called."""
    return [row[1:4] for row in contents(completions)]


def check_invariants(completion: Completion, cap: int) -> None:
    length = len(completion.output_ids)
    assert length == len(completion.logprobs) == len(completion.sampled) <= cap
    assert completion.weight_versions[0].start == 0
    assert completion.weight_versions[-1].end == length
    assert len(completion.weight_versions) == 1
    for token, logprob, chosen in zip(completion.output_ids, completion.logprobs, completion.sampled, strict=True):
        if not chosen:
            assert token in (7, 8)
            assert logprob == 0.0


def test_the_environment_writes_masked_tokens_and_the_cap_counts_them(fleet: Fleet) -> None:
    completions = fleet.generate(requests("a"), Annotator())
    for completion in completions:
        check_invariants(completion, 40)
        ids, mask = completion.output_ids, completion.sampled
        for t, chosen in enumerate(mask):
            if not chosen and (t == 0 or mask[t - 1]):
                assert ids[t - 1] in EVERY
    assert sum(int((~c.sampled).sum()) for c in completions) > 100
    reasons = {c.finish_reason for c in completions}
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}
    for c in completions:
        is_cut = c.finish_reason is FinishReason.LENGTH
        assert (len(c.output_ids) == 40) if is_cut else (c.output_ids[-1] == 2)


def test_segments_are_reproducible(fleet: Fleet) -> None:
    first, second = fleet.generate(requests("b"), Annotator()), fleet.generate(requests("c"), Annotator())
    assert tokens(first) == tokens(second)


def test_an_environment_that_never_writes_changes_only_where_segments_begin(fleet: Fleet) -> None:
    class Silent(Annotator):
        def write(self, prompt_ids: np.ndarray, output_ids: np.ndarray, rng: random.Random) -> list[int]:
            return []

    for completion in fleet.generate(requests("d"), Silent()):
        check_invariants(completion, 40)
        assert completion.sampled.all()


@pytest.mark.usefixtures("world_of_one")
def test_the_trainer_gives_the_chosen_tokens_the_servers_log_probs(fleet: Fleet, model: Path) -> None:
    completions = fleet.generate(requests("e", temperature=0.7), Annotator())
    samples = [
        make_train_sample(PROMPT_IDS, c.output_ids, sampled=c.sampled, rollout_logprobs=c.logprobs, compared=c.sampled)
        for c in completions
    ]
    stats = Policy(model, MegatronSection(), PolicySection()).score(samples, 0.7)
    chosen = torch.from_numpy(np.concatenate([c.sampled for c in completions]))
    server = torch.from_numpy(np.concatenate([c.logprobs for c in completions]))
    assert float((stats.logprobs - server)[chosen].abs().max()) <= 1e-4


def test_an_updated_fleet_confirms_the_version_and_serves_the_new_weights(fleet: Fleet, tmp_path: Path) -> None:
    before = fleet.generate(requests("f"))
    other = write_tiny_qwen2(tmp_path / "other", seed=9)
    fleet.update_weights(FolderWeights(other, "v1"))
    after = fleet.generate(requests("g"))
    assert {span.version for c in after for span in c.weight_versions} == {"v1"}
    assert tokens(after) != tokens(before)


def test_two_servers_give_what_one_gives(model: Path, fleet: Fleet, tmp_path: Path) -> None:
    fleet.update_weights(FolderWeights(model, "v0"))
    alone = fleet.generate(requests("h"))
    with Fleet.start(RolloutSection(num_servers=2), model, "v0", tmp_path) as pair:
        both = pair.generate(requests("h"))
    assert tokens(both) == tokens(alone)
