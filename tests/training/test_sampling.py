"""Sampling without a trainer: the rollouts of every step, and nothing else; what would need a trainer is refused."""

from pathlib import Path

import pytest

from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError
from egrc_mega.observe.rollouts import read_rollouts, stored_steps
from egrc_mega.testing.runs import finish_run, start_run
from egrc_mega.training.sampling import require_no_trainer


def test_rollouts_of_all_steps_are_written_by_the_first_weights_and_can_be_replayed(root: Path, tmp_path: Path) -> None:
    steps = ("stages.compress.steps=3", "stages.explore.steps=1")
    # weights that stay are at no step too old: nothing waits for new ones
    mode = ("rollout.mode=async", "rollout.max_staleness=1", "rollout.allow_uncorrected=true")
    overrides = (*steps, *mode, "evaluation.spare={}")
    said = finish_run(start_run(root, tmp_path / "run", "--rollouts-only", overrides=overrides))
    assert said.splitlines()[-1] == f"rollouts: {tmp_path}/run/rollouts; train on them with --replay-rollouts"
    assert not any(word in said for word in ("no update", "warning", "spare servers"))
    assert stored_steps(tmp_path / "run" / "rollouts") == [1, 2, 3, 4]
    assert not any((tmp_path / "run" / name).exists() for name in ("checkpoints", "export", "evaluation.json"))
    for number, stage in ((1, "compress"), (3, "compress"), (4, "explore")):
        stored = read_rollouts(tmp_path / "run", number)
        samples = [sample for group in stored.groups for sample in group.samples]
        assert (stored.stage, len(samples)) == (stage, 16)
        assert {span.version for sample in samples for span in sample.versions} == {"v0"}
        assert all(sample.prompt_ids is not None and sample.reward is not None for sample in samples)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["observe.rollouts_gib=0"], "makes nothing else"),
        (["run.replay_rollouts=/runs/a"], "give one of them"),
    ],
)
def test_what_contradicts_it_is_refused(overrides: list[str], message: str, root: Path) -> None:
    config = load_config([root / "configs/quickstart.yaml"], overrides).config
    with pytest.raises(ConfigError, match=message):
        require_no_trainer(config)
