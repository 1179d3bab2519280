"""EGRC there and back, each stage ended by its curves, killed at every kind of change between them."""

import re
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from egrc_mega.config.load import load_config
from egrc_mega.soak.laws import require_same_weights
from egrc_mega.testing.runs import events, finish_run, start_run

pytestmark = [pytest.mark.program, pytest.mark.long_file]
QUIET = {"min_steps": 2, "window": 1, "ema_steps": 2, "checks": 1, "rel_length": 9.0, "rel_entropy": 9.0}
"""Everything stands still under these rules, so a stage ends as soon as its window is full."""
MINIATURE = {"steps": 9, "clip_len": 72, "plateau": QUIET, "optim": {"lr": 1e-4}}
STAGES: list[dict[str, Any]] = [
    {"method": "compress", "rollout": {"n": 4, "temperature": 1.0}, **MINIATURE},
    {"method": "explore", "rollout": {"n": 4, "temperature": 1.2, "max_new_tokens": 100}, **MINIATURE},
]
NAMES = ["compress", "explore", "compress.2", "explore.2"]
SMALL = ("cycles=2", "checkpoint.every=1", "evaluation.num_problems=4", "rollout.prompts_per_step=3")
KILLS = ("before_commit@2", "before_commit@4", "after_commit@4", "after_commit@6")
"""At the end of compress and of explore, once the switch is decided and once it is on disk."""


@pytest.fixture(scope="module")
def disturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of two cycles, and the same killed again and again."""
    base = tmp_path_factory.mktemp("runs")
    folders = {name: base / name for name in ("undisturbed", "killed")}
    first = start_run(root, folders["undisturbed"], stages=STAGES, overrides=SMALL)
    for number, kill in enumerate(KILLS):
        extra = ("--resume",) if number else ()
        run = start_run(root, folders["killed"], *extra, stages=STAGES, overrides=SMALL, faults=f"train.{kill}")
        finish_run(run, expected=-signal.SIGKILL)
    finish_run(start_run(root, folders["killed"], "--resume", stages=STAGES, overrides=SMALL))
    finish_run(first)
    return folders


def test_two_cycles_killed_at_every_kind_of_change_end_with_the_same_weights(disturbed: dict[str, Path]) -> None:
    assert [step["step"] for step in events(disturbed["killed"], "step")] == [1, 2, 2, 3, 4, 4, 5, 6, 7, 8]
    require_same_weights(disturbed["killed"], disturbed["undisturbed"])


def test_every_stage_of_a_cycle_ends_by_its_own_curves_and_says_so_with_numbers(disturbed: dict[str, Path]) -> None:
    opens = [*NAMES[1:], None]
    for run in disturbed.values():
        # a switch that was decided and not committed is decided again, in the same words
        switches = {switch["step"]: switch for switch in events(run, "switch")}
        assert [(s["ended"], s["opens"], n) for n, s in switches.items()] == [
            (*names, 2 * n) for n, names in enumerate(zip(NAMES, opens, strict=True), 1)
        ]
        for switch in switches.values():
            assert re.match(r"entropy 0\.\d+ and length \d+\.\d stand still", switch["reason"])
    undisturbed, killed = ({s["step"]: s["reason"] for s in events(run, "switch")} for run in disturbed.values())
    assert undisturbed == killed


def test_every_change_of_a_cycle_is_measured_once(disturbed: dict[str, Path]) -> None:
    points = [orjson.loads((run / "evaluation.json").read_bytes())["points"] for run in disturbed.values()]
    expected = [(name, n, 2 * n) for n, name in enumerate(["base", *NAMES])]
    assert [(p["label"], p["ordinal"], p["step"]) for p in points[0][::2]] == expected
    assert [(p["label"], p["accuracy"], p["mean_length"]) for p in points[0]] == [
        (p["label"], p["accuracy"], p["mean_length"]) for p in points[1]
    ]


def test_a_resume_with_another_rule_for_a_stage_that_has_ended_is_refused_by_name(
    disturbed: dict[str, Path], root: Path
) -> None:
    stages = yaml.safe_load((disturbed["undisturbed"] / "config.yaml").read_text())["stages"]
    stages[0]["plateau"]["window"] = 2
    run = start_run(root, disturbed["undisturbed"], "--resume", stages=stages, overrides=SMALL[1:])
    output = finish_run(run, expected=7)
    assert "egrc: error: stages.compress.plateau.window: 2, but the run has gone by 1" in output
    assert "starting servers" not in output


def test_the_configuration_of_the_cycles_ends_every_stage_by_its_curves(root: Path) -> None:
    files = [root / "configs/r1_distill_qwen_1p5b.yaml", root / "configs/methods/egrc_cycles.yaml"]
    compress, explore, *again = load_config(files).config.stages
    assert [stage.name for stage in (compress, explore, *again)] == NAMES
    once = load_config([files[0], root / "configs/methods/egrc.yaml"]).config.stages
    for stage, plain in zip((compress, explore), once, strict=True):
        assert stage.plateau is not None
        left = {"steps": plain.steps, "plateau": None}
        assert stage.model_copy(update=left) == plain
    assert [stage.model_copy(update={"label": None}) for stage in again] == [compress, explore]
    # while it explores accuracy may dip
    assert (compress.plateau.accuracy_guard, explore.plateau.accuracy_guard) == (0.1, None)  # type: ignore[union-attr]
