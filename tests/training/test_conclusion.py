"""A run that has come to its end says so when it is resumed, and only where there is nothing left to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from egrc_mega.checkpoint.state_file import write_state
from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.lock import Lock
from egrc_mega.manifest import write_manifest
from egrc_mega.run_folder import LOCK
from egrc_mega.testing.made_runs import write_evaluation, write_steps
from egrc_mega.training.conclusion import finished, said_that_it_is_finished


def config_of(root: Path, run: Path, *overrides: str) -> Config:
    return load_config([root / "configs/quickstart.yaml"], [f"run.dir={run}", *overrides]).config


@pytest.fixture
def over(root: Path, tmp_path: Path) -> Path:
    """The folder of a run of twelve steps that has come to its end."""
    write_steps(tmp_path, range(1, 13), 12)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config_of(root, tmp_path).to_dict(), sort_keys=False))
    write_evaluation(tmp_path, ("base", 0, 0), 0.8, 100.0)
    write_evaluation(tmp_path, ("explore", 2, 12), 0.9, 30.0)
    step = tmp_path / "checkpoints" / "step_000012"
    step.mkdir(parents=True)
    by = {"metric": "accuracy", "set": "", "temperature": None, "mode": "max"}
    best = {"by": by, "score": {"step": 8, "label": "explore", "value": 0.9, "ungraded": 0, "n": 8}, "num_since": 1}
    write_state(step, {"best": best}, 12, is_stage_end=True)
    write_manifest(step, {}, durable=False)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")
    (tmp_path / "report.html").write_text("")
    return tmp_path


def test_it_names_table_export_best_report_and_the_next_command(root: Path, over: Path) -> None:
    lines = finished(config_of(root, over, "observe.verbose=true"))
    assert lines is not None
    assert lines[0] == f"{over} is finished: all of it was done at step 12; nothing is started"
    assert any(line.startswith("  explore, step 12") and "90.0%" in line and "30%" in line for line in lines)
    assert lines[-5:-1] == [
        f"export: {over / 'export'}",
        f"best: step 8, accuracy 0.9 (0 of 8 ungraded); egrc export {over}",
        f"report: {over / 'report.html'}",
        f"next: egrc eval compare {over}",
    ]


def test_a_run_of_an_earlier_version_that_lacks_newer_fields_is_finished_too(root: Path, over: Path) -> None:
    file = over / "config.yaml"
    before = yaml.safe_load(file.read_text())
    del before["data"]["shuffle"], before["stages"][0]["loss"], before["supervisor"]
    file.write_text(yaml.safe_dump(before))
    assert finished(config_of(root, over)) is not None
    assert finished(config_of(root, over, "rollout.mode=async")) is None


def test_one_rank_says_it_for_all(
    root: Path, over: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, num_lines in (("0", 1), ("1", 0)):
        monkeypatch.setitem(os.environ, "RANK", rank)
        assert said_that_it_is_finished(config_of(root, over))
        assert capsys.readouterr().out.count("is finished") == num_lines


def _wrote(event: dict[str, object]) -> Callable[[Path], object]:
    def write(run: Path) -> None:
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")

    return write


LEFT_TO_DO: dict[str, Callable[[Path], object]] = {
    "it was begun again": _wrote({"kind": "resume"}),
    "it has not come to its end since": _wrote({"kind": "evaluation", "step": 12}),
    "the last step is not committed": lambda run: (run / "checkpoints" / "step_000012").rename(
        run / "checkpoints" / "step_000011"
    ),
    "the export is missing": lambda run: (run / "export" / "config.json").unlink(),
    "the page is missing": lambda run: (run / "report.html").unlink(),
    "the last step is torn": lambda run: (run / "checkpoints" / "step_000012" / "state.json").unlink(),
    "the configuration cannot be read": lambda run: (run / "config.yaml").write_text("a: ["),
    "the table is torn": lambda run: (run / "evaluation.json").write_text("{"),
    "another process holds it": lambda run: Lock.take(run / LOCK),
    "the events are torn": lambda run: (run / "metrics.jsonl").write_text('{"kind": "en'),
    "there is no run": lambda run: (run / "metrics.jsonl").unlink(),
}


@pytest.mark.parametrize("left", LEFT_TO_DO)
def test_a_run_with_something_left_to_do_is_not_finished(left: str, root: Path, over: Path) -> None:
    held = LEFT_TO_DO[left](over)
    assert finished(config_of(root, over)) is None
    if isinstance(held, Lock):
        held.release()


@pytest.mark.parametrize("asked", ["stages.explore.steps=9", "evaluation.num_problems=7", "evaluation.every=2"])
def test_a_run_of_which_more_is_asked_is_not_finished(asked: str, root: Path, over: Path) -> None:
    assert finished(config_of(root, over, asked)) is None
