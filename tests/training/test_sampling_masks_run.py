"""A run whose tokens are drawn with top-p and top-k: servers and trainer agree on log-probs; a replay is the same."""

from pathlib import Path

import numpy as np
import pytest

from egrc_mega.observe.rollouts import read_rollouts
from egrc_mega.soak.laws import require_same_weights
from egrc_mega.testing.runs import events, finish_run, start_run

pytestmark = pytest.mark.long_file
OVERRIDES = (
    "stages.compress.steps=2",
    "stages.explore.steps=1",
    *(f"stages.{stage}.rollout.{cut}" for stage in ("compress", "explore") for cut in ("top_p=0.8", "top_k=3")),
)


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    folders = {name: base / name for name in ("sampled", "replayed")}
    finish_run(start_run(root, folders["sampled"], overrides=OVERRIDES))
    replay = ("--replay-rollouts", str(folders["sampled"] / "rollouts"))
    finish_run(start_run(root, folders["replayed"], *replay, overrides=OVERRIDES))
    return folders


def test_every_token_is_compared_among_what_it_was_drawn_from_and_agrees(runs: dict[str, Path]) -> None:
    steps = events(runs["sampled"], "step")
    assert len(steps) == 3
    for step in steps:
        assert step["logprob_compared"] == 1.0
        assert 0 < step["logprob_diff_max"] <= 1e-4
    mismatches = [step["mismatch_kl"] for step in steps if step["mismatch_kl"] is not None]
    assert mismatches and max(map(abs, mismatches)) <= 1e-6


def test_the_rollouts_keep_the_masks_and_none_is_larger_than_top_k(runs: dict[str, Path]) -> None:
    [*_, last] = read_rollouts(runs["sampled"], 3).groups[0].samples
    assert last.mask_counts is not None and last.mask_ids is not None
    assert last.mask_counts.min() == 1 and last.mask_counts.max() == 3
    ends = np.cumsum(last.mask_counts)[:-1]
    masks = np.split(last.mask_ids, ends)
    assert all(token in mask for token, mask in zip(last.output_ids, masks, strict=True))
    # a token that was drawn from itself alone was certain
    assert (last.logprobs[last.mask_counts == 1] == 0).all() and (last.logprobs[last.mask_counts > 1] < 0).all()


def test_a_replay_trains_the_same_weights(runs: dict[str, Path]) -> None:
    require_same_weights(runs["replayed"], runs["sampled"])
