"""A study's file becomes cells, each a whole configuration; mistakes are told before anything runs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from egrc_mega.errors import ConfigError
from egrc_mega.sections.stage import OptimSection
from egrc_mega.studies.grid import first_difference, read_study

WriteStudy = Callable[..., Path]


def test_settings_are_the_product_of_the_axes_and_cells_go_seed_by_seed(write_study: WriteStudy) -> None:
    axes = {"clip": {"long": {}, "short": {}}, "order": {"there": {}, "back": {}}}
    study = read_study(write_study(axes, seeds=[1, 5]))
    assert study.settings == ("long-there", "long-back", "short-there", "short-back")
    assert [(cell.setting, cell.seed) for cell in study.cells[:5]] == [
        ("long-there", 1),
        ("long-back", 1),
        ("short-there", 1),
        ("short-back", 1),
        ("long-there", 5),
    ]
    assert study.reference == "long-there"
    assert [cell.config.run.seed for cell in study.cells[3:5]] == [1, 5]


def test_a_variant_wins_over_the_study_and_a_later_axis_over_an_earlier_one(write_study: WriteStudy) -> None:
    axes = {
        "first": {"a": {"set": {"stages.compress.clip_len": 40, "stages.explore.clip_len": 41}}},
        "second": {"b": {"set": {"stages.compress.clip_len": 50}}},
    }
    (cell,) = read_study(write_study(axes, set={"stages.explore.clip_len": 60, "checkpoint.every": 7})).cells
    compress, explore = cell.config.stages
    assert (compress.clip_len, explore.clip_len, cell.config.checkpoint.every) == (50, 41, 7)  # type: ignore[attr-defined]


def test_values_are_laid_over_all_files_also_those_of_variants(write_study: WriteStudy, tmp_path: Path) -> None:
    stages = [{"method": "explore", "steps": 9, "clip_len": 30}]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"stages": stages}))
    axes = {"method": {"own": {"configs": ["own.yaml"]}}}
    (cell,) = read_study(write_study(axes, set={"stages.0.steps": 2})).cells
    assert [(stage.method, stage.steps) for stage in cell.config.stages] == [("explore", 2)]


def test_paths_are_relative_to_the_studys_file(write_study: WriteStudy, tmp_path: Path) -> None:
    axes = {"data": {"own": {"set": {"data.train": "train.jsonl"}}}}
    (tmp_path / "train.jsonl").write_text('{"problem": "1 a + 1 = ?", "answer": "2"}\n')
    (cell,) = read_study(write_study(axes)).cells
    assert cell.config.data.train == tmp_path / "train.jsonl"
    assert cell.folder == tmp_path / "study" / "cells" / "own-seed1"
    assert cell.config.run.dir == cell.folder / "run"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"axis": {}}, "small.yaml: axis: unknown key; did you mean axes?"),
        ({"seeds": []}, "small.yaml: seeds"),
        ({"seeds": [1, 1]}, "seeds: 1 stands there twice"),
        ({"reference": "longer"}, "reference: there is no setting 'longer'; there are long, short"),
        ({"curves": ["longer"]}, "curves: there is no setting 'longer'"),
        ({"axes": {"clip": {}}}, "axes.clip: no variants"),
        ({"axes": {"clip": {"a/b": {}}}}, "small.yaml: axes.clip.a/b"),
        ({"axes": {"clip": {"a": {"sets": {}}}}}, "sets: unknown key"),
        ({"claims": [{"says": "x", "of": {"setting": "long"}}]}, "claims.0.at_least: give it or at_most"),
        ({"claims": [{"says": "x", "of": {"setting": "far"}, "at_most": 1}]}, "of.setting: there is no setting 'far'"),
        ({"claims": [{"says": "x", "of": {}, "at_most": 1}]}, "claims.0.of.setting: give it or best_of"),
        (
            {"claims": [{"says": "x", "of": {"setting": "long"}, "relative": True, "at_most": 1}]},
            "claims.0.relative: true, but nothing is subtracted",
        ),
        ({"set": {"stages.compress.clip_lens": 3}}, "long-seed1: stages.compress.clip_lens: unknown key"),
        ({"set": {"stages.nowhere.steps": 3}}, "long-seed1: --set stages.nowhere.steps=3: there is no stage"),
        ({"set": {"rollout.colocated": True}}, "long-seed1: rollout.colocated: true"),
    ],
)
def test_a_mistake_is_named_by_field_or_cell(write_study: WriteStudy, fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(write_study(**fields))
    assert expected in str(caught.value)


def test_the_first_field_that_differs_is_named_with_both_values() -> None:
    before = {"run": {"seed": 1}, "stages": [{"steps": 5}, {"steps": 6}]}
    now = {"run": {"seed": 1}, "stages": [{"steps": 5}, {"steps": 7}]}
    assert first_difference(before, now) == "stages.1.steps was 6 and is 7"
    assert first_difference(before, before) is None
    assert first_difference({"a": 1}, {"a": 1, "b": None, "c": 2}) == "c was None and is 2"


def test_every_study_of_the_repository_can_be_read(root: Path) -> None:
    files = sorted((root / "configs/studies").glob("*.yaml"))
    assert [file.stem for file in files] == ["asynchrony", "controller", "egrc", "noisy", "zoo"]
    studies = {file.stem: read_study(file) for file in files}
    methods = {stage.method for cell in studies["zoo"].cells for stage in cell.config.stages}
    configs = {path.stem for path in (root / "configs/methods").glob("*.yaml")}
    # by their curves two cycles take some hundred steps: no matter for cells of forty
    assert set(studies["zoo"].settings) == configs - {"egrc_cycles"}
    assert len(methods) > 30
    assert all(len(studies[name].section.seeds) == 3 for name in ("asynchrony", "egrc", "noisy", "controller"))


def test_what_the_zoos_page_says_is_off_is_off_in_every_cell(root: Path) -> None:
    study = read_study(root / "configs/studies/zoo.yaml")
    said = " ".join(study.section.about)
    assert "one update a rollout" in said and "KL terms of the loss" in said and "entropy bonuses" in said
    clips = {cell.config.megatron.clip_grad for cell in study.cells}
    assert clips == {1.0}
    for cell in study.cells:
        assert sum(stage.steps for stage in cell.config.stages) == (80 if cell.setting == "entangled_star" else 40)
        for stage in cell.config.stages:
            assert stage.optim == OptimSection(lr=2e-4), cell.name
            assert (stage.loss.kl_coef, stage.loss.entropy_coef) == (0.0, 0.0), cell.name
            assert getattr(stage, "reward_kl_coef", 0.0) == 0.0, cell.name
            assert stage.rollout.n == 8 and cell.config.rollout.prompts_per_step == 16, cell.name


def test_of_the_zoos_methods_only_o1_pruner_looks_at_the_base_model(root: Path) -> None:
    cells = read_study(root / "configs/studies/zoo.yaml").cells
    looking = {cell.setting for cell in cells for stage in cell.config.stages if stage.loss.old_logprobs != "trainer"}
    assert looking == {"o1_pruner"}


def test_the_zoos_lengths_are_the_recipes_scaled_to_the_miniature(root: Path) -> None:
    scale = 72 / 4096
    cells = read_study(root / "configs/studies/zoo.yaml").cells
    stages = {cell.setting: cell.config.stages[0] for cell in cells}
    assert stages["laser"].target == 4096 * scale  # type: ignore[attr-defined]
    assert stages["dr_grpo"].loss.sum_divisor == round(3000 * scale)
    assert stages["l1_exact"].alpha == pytest.approx(3e-4 / scale, rel=0.01)  # type: ignore[attr-defined]
    assert stages["shorterbetter"].beta == pytest.approx(1e-3 / scale, rel=0.01)  # type: ignore[attr-defined]
    assert stages["a_dlp"].rate == pytest.approx(1e-3 / scale, rel=0.01)  # type: ignore[attr-defined]


def test_the_methods_page_has_the_accuracy_and_the_length_that_the_zoo_was_measured_with(root: Path) -> None:
    measured = {}
    table = (root / "docs/studies/zoo.md").read_text().partition("## Settings at their end")[2].partition("## ")[0]
    for line in table.splitlines():
        if match := re.match(r"\| (\w+) +\| 2 +\| ([\d.]+) ± [^|]+\| ([\d.]+) ", line):
            measured[match[1]] = f"{match[2]} %, {match[3]}"
    told = {}
    for line in (root / "docs/methods.md").read_text().splitlines():
        if line.startswith("| `") and line.endswith(" |") and " %, " in line:
            cells = line.strip("| ").split(" | ")
            told |= dict(zip(re.findall(r"`(\w+)`", cells[0]), cells[-1].split("; "), strict=False))
    assert len(measured) == 37 and told == measured
