"""What a resume may change: twenty changes, each allowed or refused as docs/configuration.md says."""

from pathlib import Path
from typing import Any

import pytest

from egrc_mega.config.load import load_config
from egrc_mega.errors import RunError
from egrc_mega.stages.progress import Progress
from egrc_mega.stages.resume import MAY_CHANGE, resumed
from egrc_mega.stages.state import RunState

THREE = (
    "stages=[{method: compress, steps: 4}, {method: explore, steps: 6, optim: {lr: 1.0e-4}}, {method: dapo, steps: 5}]"
)
UNDER_WAY = Progress(step=6, stage=1, step_in_stage=2)
"""Two steps into explore: compress is over, dapo has not begun."""
OVER = Progress(step=15, stage=3, step_in_stage=5)


@pytest.fixture
def quickstart(root: Path) -> Path:
    return root / "configs" / "quickstart.yaml"


def resume(quickstart: Path, *overrides: str, progress: Progress = UNDER_WAY) -> RunState:
    before: dict[str, Any] = load_config(quickstart, [THREE]).config.to_dict()
    now = load_config(quickstart, [THREE, *overrides]).config.to_dict()
    return resumed(RunState(progress=progress, config=before), now)


ALLOWED = [
    "run.dir=/elsewhere",
    "rollout.num_servers=3",
    "rollout.request_timeout_s=30",
    "sync.verify_every=4",
    "checkpoint.every=1",
    "evaluation.num_problems=9",
    "grading.num_workers=5",
    "policy.max_tokens_per_micro_batch=9000",
    "megatron.tensor_model_parallel_size=2",
    "stages.explore.steps=9",
    "stages.explore.plateau={min_steps: 2}",
    "stages.dapo.optim.lr=3.0e-4",
    "stages.dapo={method: thinkprune, steps: 2}",
]
REFUSED = [
    ("run.seed=2", "run.seed: 2, but the run has gone by 1; resume with that"),
    ("rollout.prompts_per_step=4", "rollout.prompts_per_step: 4, but the run has gone by 16"),
    ("data.shuffle=false", "data.shuffle: False, but the run has gone by True"),
    ("megatron.weight_decay=0.3", "megatron.weight_decay: 0.3, but"),
    ("megatron.bf16=true", "megatron.bf16: True, but"),
    ("grading.grader={grader: math}", ""),
    ("stages.compress.steps=9", "stages.compress.steps: 9, but the run has gone by 4"),
    ("stages.compress.clip_len=50", "stages.compress.clip_len: 50, but"),
    ("stages.explore.optim.lr=1.0e-3", "stages.explore.optim.lr: 0.001, but the run has gone by 0.0001"),
    ("stages.explore.label=other", "stages.explore.label: 'other', but the run has gone by None"),
    ("stages.explore.steps=1", "stages.explore.steps: 1, but 2 steps are done already; give at least as many"),
    ("stages=[{method: explore, steps: 6}]", "stages: stage compress has begun and is left out at its place"),
    ("stages=[{method: compress, steps: 4}]", "stages: stage explore has begun and is left out at its place"),
]


@pytest.mark.parametrize("override", ALLOWED)
def test_what_is_on_the_list_may_change(quickstart: Path, override: str) -> None:
    state = resume(quickstart, override)
    assert state.progress == UNDER_WAY
    assert state.config == load_config(quickstart, [THREE, override]).config.to_dict()


@pytest.mark.parametrize(("override", "expected"), [case for case in REFUSED if case[1]])
def test_anything_else_is_refused_by_name_with_the_remedy(quickstart: Path, override: str, expected: str) -> None:
    with pytest.raises(RunError) as caught:
        resume(quickstart, override)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_change_that_is_refused_is_named_at_once(quickstart: Path) -> None:
    with pytest.raises(RunError) as caught:
        resume(quickstart, "run.seed=2", "data.shuffle=false", "stages.compress.beta=2.0")
    assert len(str(caught.value).splitlines()) == 3


def test_a_field_whose_name_only_begins_like_a_free_one_stays(quickstart: Path) -> None:
    prune = "stages=[{method: thinkprune, steps: 540, steps_per_cap: 180}]"
    before, now = (
        load_config(quickstart, [prune, *more]).config.to_dict() for more in ([], ["stages.thinkprune.steps_per_cap=5"])
    )
    with pytest.raises(RunError, match=r"stages\.thinkprune\.steps_per_cap: 5, but the run has gone by 180"):
        resumed(RunState(progress=Progress(step=6, step_in_stage=6), config=before), now)


def test_the_same_configuration_resumes_where_it_was(quickstart: Path) -> None:
    assert resume(quickstart).progress == UNDER_WAY
    assert resume(quickstart, progress=OVER).progress == OVER


def test_a_stage_under_way_that_is_given_as_many_steps_as_it_has_had_is_over(quickstart: Path) -> None:
    state = resume(quickstart, "stages.explore.steps=2")
    assert (state.progress, state.method) == (Progress(step=6, stage=2), None)
    # as the last stage of all it remembers what it has seen, for it may be given more steps later
    place = Progress(step=14, stage=2, step_in_stage=4)
    assert resume(quickstart, "stages.dapo.steps=4", progress=place).progress == place.model_copy(update={"stage": 3})


def test_a_run_that_was_over_goes_on_where_its_last_stage_is_given_more_steps(quickstart: Path) -> None:
    state = resume(quickstart, "stages.dapo.steps=8", progress=OVER)
    assert state.progress == Progress(step=15, stage=2, step_in_stage=5)


def test_a_run_that_was_over_goes_on_with_a_stage_that_is_added(quickstart: Path) -> None:
    four = THREE.replace("]", ", {method: explore, label: more, steps: 2}]").replace("}}, ", "}}, ")
    before = load_config(quickstart, [THREE]).config.to_dict()
    now = load_config(quickstart, [four]).config.to_dict()
    state = resumed(RunState(progress=OVER, method={"seen": 1}, config=before), now)
    # the added stage has had no step yet, and knows nothing of what the last one remembered
    assert (state.progress, state.method) == (Progress(step=15, stage=3), None)


def test_a_run_may_be_given_more_cycles_while_it_goes_and_after_it_was_over(quickstart: Path) -> None:
    under_way = resume(quickstart, "cycles=2")
    assert under_way.progress == UNDER_WAY
    names = ["compress", "explore", "dapo", "compress.2", "explore.2", "dapo.2"]
    assert [stage["label"] or stage["method"] for stage in under_way.config["stages"]] == names
    assert resume(quickstart, "cycles=2", progress=OVER).progress == Progress(step=15, stage=3)


def test_a_cycle_that_has_begun_may_not_be_left_out(quickstart: Path) -> None:
    before = load_config(quickstart, [THREE, "cycles=2"]).config.to_dict()
    now = load_config(quickstart, [THREE]).config.to_dict()
    in_the_second = Progress(step=17, stage=3, step_in_stage=2)
    with pytest.raises(RunError, match=r"stages: stage compress\.2 has begun and is left out at its place"):
        resumed(RunState(progress=in_the_second, config=before), now)


def test_a_plateau_that_ended_the_last_stage_is_not_reopened(quickstart: Path) -> None:
    ended_early = Progress(step=13, stage=3, step_in_stage=3)
    assert resume(quickstart, progress=ended_early).progress == ended_early


def test_the_documents_list_everything_that_may_change(root: Path) -> None:
    text = (root / "docs" / "configuration.md").read_text()
    assert [name for name in MAY_CHANGE if f"`{name.rstrip('.')}" not in text] == []


def leaves(value: Any, *path: str) -> list[tuple[str, ...]]:
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in leaves(child, *path, key)]
    return [path]


def changed(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    return config | {first: changed(config[first], tuple(rest), value) if rest else value}


def may_change(path: tuple[str, ...]) -> bool:
    """By the list, read in another way: a whole name, or the begin of one."""
    name = ".".join(path)
    return name in MAY_CHANGE or any(entry[-1] in "._" and name[: len(entry)] == entry for entry in MAY_CHANGE)


def test_of_every_field_outside_the_stages_the_list_and_nothing_else_decides(quickstart: Path) -> None:
    config = load_config(quickstart, [THREE]).config.to_dict()
    state = RunState(progress=UNDER_WAY, config=config)
    paths = [path for path in leaves(config) if path[0] != "stages"]
    free = [path for path in paths if may_change(path)]
    # every entry stands for something, whole sections and prefixes among them
    assert {entry for entry in MAY_CHANGE if any(".".join(path).startswith(entry) for path in free)} == set(MAY_CHANGE)
    assert len(paths) - len(free) > 20
    for path in paths:
        now = changed(config, path, "something else")
        if path in free:
            assert resumed(state, now).config == now
        else:
            with pytest.raises(RunError, match=rf"^{'.'.join(path)}: 'something else', but the run has gone by "):
                resumed(state, now)


@pytest.mark.parametrize("path", [("data", "another"), ("stages", "another")])
def test_a_field_that_the_checkpoint_does_not_know_is_a_change_too(quickstart: Path, path: tuple[str, str]) -> None:
    now = load_config(quickstart, [THREE]).config.to_dict()
    section, name = path
    before = now | {section: dict(now[section]) if section == "data" else [dict(stage) for stage in now[section]]}
    (now[section][0] if section == "stages" else now[section])[name] = 1
    told = f"{'stages.compress' if section == 'stages' else section}.{name}: 1, but the run has gone by left out"
    with pytest.raises(RunError, match=told):
        resumed(RunState(progress=UNDER_WAY, config=before), now)
    with pytest.raises(RunError, match=f"{name}: left out, but the run has gone by 1"):
        resumed(RunState(progress=UNDER_WAY, config=now), before)
