"""A replay refuses what it cannot train on in one line; that its weights are the run's own says test_whole_run.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.data.render import Renderer
from egrc_mega.errors import ConfigError, RunError
from egrc_mega.observe.rollout_file import StoredStep
from egrc_mega.observe.rollouts import RolloutLog, read_step_file, step_path
from egrc_mega.stages.state import Carried, Position, RunState
from egrc_mega.testing.rollouts import make_stored_group, make_stored_sample
from egrc_mega.testing.samples import masks_in
from egrc_mega.training.collection import StepGroups
from egrc_mega.training.preflight import preflight
from egrc_mega.training.replay import Replay, collected_as
from egrc_mega.training.serving import open_renderer
from egrc_mega.training.turn import Turn, turn_of

POSITION = Position(cursor=9, carried=(Carried(place=3, age=1),))


@pytest.fixture(scope="module")
def config(root: Path) -> Config:
    return load_config([root / "configs/quickstart.yaml"], ["stages.compress.steps=2", "stages.explore.steps=1"]).config


@pytest.fixture(scope="module")
def renderer(config: Config) -> Renderer:
    return open_renderer(config)


def first_turn(config: Config) -> Turn:
    turn = turn_of(RunState(), config.stages, config.run.seed)
    assert turn is not None
    return turn


@pytest.fixture
def folder(config: Config, renderer: Renderer, tmp_path: Path) -> Path:
    """Of three steps; only the first is what its step would be."""
    num_groups = config.rollout.prompts_per_step
    ids = np.array([5, 6, 7], np.int32)
    sample = make_stored_sample(
        3, output_ids=ids, text=renderer.decode(ids), prompt_ids=np.array([1, 2], np.int32), reason="equal text"
    )
    masks = {"mask_counts": np.array([0, 2, 1], np.int32), "mask_ids": np.array([6, 9, 7], np.int32)}
    sample = replace(sample, entropies=np.ones(3, np.float32), **masks)
    collected = StepGroups([], POSITION, {"sampled_groups": 4}, length_sampled=2.5)
    how = collected_as(collected, first_turn(config))
    with RolloutLog(tmp_path / "rollouts", 10**6) as log:
        for step in (1, 2, 3):
            log.write(step, "compress", [make_stored_group(sample)] * num_groups, collected=how)
    return tmp_path / "rollouts"


def rewrite(folder: Path, **changes: Any) -> None:
    """Step 1 with other fields; the later steps go with it, and come back."""
    others = [(path, path.read_bytes()) for path in folder.glob("step_*") if path != step_path(folder, 1)]
    stored: StoredStep = replace(read_step_file(folder, 1), **changes)
    with RolloutLog(folder, 10**6) as log:
        log.write(1, stored.stage, stored.groups, collected=stored.collected)
    for path, content in others:
        path.write_bytes(content)


def test_a_replay_gives_what_the_collector_gave_and_leaves_what_the_trainer_measures(
    config: Config, renderer: Renderer, folder: Path
) -> None:
    replay = Replay(config, folder.parent, renderer)  # the run's folder does as well as its rollouts'
    found = replay.collect(first_turn(config), Position())
    assert (found.position, found.counts, found.length_sampled) == (POSITION, {"sampled_groups": 4}, 2.5)
    (sample,) = found.groups[0].samples
    assert sample.prompt_ids.tolist() == [1, 2] and sample.completion.output_ids.tolist() == [5, 6, 7]
    assert sample.reason == "equal text" and sample.entropies is None and sample.right
    assert masks_in(sample.completion.sampling_mask) == [[], [6, 9], [7]]


def test_a_folder_without_all_steps_is_refused_before_the_run_begins(
    config: Config, renderer: Renderer, folder: Path, tmp_path: Path
) -> None:
    step_path(folder, 2).unlink()
    with pytest.raises(RunError, match=r"lacks the steps 2; it holds 1, 3\. Lower the stages' steps"):
        Replay(config, folder, renderer)
    with pytest.raises(RunError, match="holds no step_"):
        Replay(config, tmp_path / "elsewhere", renderer)


def test_a_run_cannot_replay_itself(config: Config, renderer: Renderer, folder: Path) -> None:
    own = config.model_copy(update={"run": config.run.model_copy(update={"dir": folder.parent})})
    with pytest.raises(ConfigError, match="is this run's own"):
        Replay(own, folder, renderer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "explore"}, "the stage was 'explore' and is 'compress'"),
        ({"step": 2}, "the step within the stage was 2 and is 1"),
        ({"temperature": 0.3}, r"stages\.compress\.rollout\.temperature was 0\.3 and is"),
    ],
)
def test_other_configurations_are_refused_by_the_field_that_differs(
    change: dict[str, Any], message: str, config: Config, renderer: Renderer, folder: Path
) -> None:
    how = dict(read_step_file(folder, 1).collected or {})
    names = {"stage": "the stage", "step": "the step within the stage"}
    names |= {"temperature": "stages.compress.rollout.temperature"}
    changed = {names[name]: value for name, value in change.items()}
    rewrite(folder, collected=how | {"sampled_with": how["sampled_with"] | changed})
    with pytest.raises(RunError, match=f"was sampled under another configuration: {message}"):
        Replay(config, folder, renderer).collect(first_turn(config), Position())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "something else"}, "train.jsonl:7's first response reads otherwise with that of"),
        ({"prompt_ids": np.array([10**6], np.int32)}, "token 1000000 of problem train.jsonl:7 is not among"),
        ({"prompt_ids": None}, "was written by an earlier version"),
    ],
)
def test_other_tokenizers_and_earlier_files_are_refused(
    change: dict[str, Any], message: str, config: Config, renderer: Renderer, folder: Path
) -> None:
    group, *others = read_step_file(folder, 1).groups
    rewrite(folder, groups=(*others, replace(group, samples=(replace(group.samples[0], **change),))))
    with pytest.raises(RunError, match=message):
        Replay(config, folder, renderer).collect(first_turn(config), Position())


def test_another_number_of_groups_is_refused_unless_servers_had_refused_some(
    config: Config, renderer: Renderer, folder: Path
) -> None:
    stored = read_step_file(folder, 1)
    rewrite(folder, groups=stored.groups[:1])
    with pytest.raises(RunError, match=r"rollout\.prompts_per_step was 1 and is"):
        Replay(config, folder, renderer).collect(first_turn(config), Position())
    assert stored.collected is not None
    rewrite(folder, groups=stored.groups[:1], collected={**stored.collected, "counts": {"refused_groups": 1}})
    assert len(Replay(config, folder, renderer).collect(first_turn(config), Position()).groups) == 1


def test_a_torn_file_is_one_line(config: Config, renderer: Renderer, folder: Path) -> None:
    step_path(folder, 1).write_bytes(b"torn")
    with pytest.raises(RunError, match=r"step_000001\.safetensors cannot be read .*; the other steps are 2-3"):
        Replay(config, folder, renderer).collect(first_turn(config), Position())


def test_a_replay_needs_no_data_and_ends_by_no_evaluation(root: Path, folder: Path) -> None:
    sets = [f"run.replay_rollouts={folder}", "data.train=/nowhere", "evaluation.data=/nowhere"]
    preflight(load_config([root / "configs/quickstart.yaml"], sets).config, 1, 1)
    stop = ['evaluation.best={"metric": "accuracy"}', 'evaluation.stop={"patience": 1}']
    with pytest.raises(ConfigError, match="a replay has no servers"):
        preflight(load_config([root / "configs/quickstart.yaml"], [*sets, *stop]).config, 1, 1)
