"""`egrc init` writes a configuration that a dry run accepts, with what model and data say of themselves."""

import json
from pathlib import Path

import pytest
import torch

from egrc_mega.config.check import problems
from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError, DataError, ModelError
from egrc_mega.launch import new_config
from egrc_mega.launch.dry_run import dry_run
from egrc_mega.launch.new_config import BOXED, write_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"question": f"{n} a + 1 = ?", "label": (n + 1) % 10} for n in range(9)]
    path = tmp_path / "own data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_what_is_written_passes_a_dry_run_and_holds_what_was_found(
    root: Path, base_model: Path, data: Path, tmp_path: Path
) -> None:
    other = root / "egrc_mega/miniature/assets/eval.jsonl"
    path = write_config(tmp_path / "new/mine", base_model, data, other, "")
    assert "9 rows, 0 of them quarantined" in dry_run([path], [], num_nodes=1, num_processes=1)
    config, text = load_config(path).config, path.read_text()
    assert (config.data.prompt_key, config.data.answer_key) == ("question", "label")
    assert (config.evaluation.prompt_key, config.evaluation.answer_key) == ("problem", "answer")
    assert config.run.dir == tmp_path / "new/mine/run"
    explore = config.stages[1]
    assert explore.rollout.max_new_tokens == config.evaluation.max_new_tokens == 512 - 20
    assert "the template: it opens the think part" in text
    assert [stage.clip_len for stage in config.stages] == [120, 120]
    assert "a quarter of what the model's 512 positions leave beside the longest prompt, rounded down" in text
    measure = next(line for line in text.splitlines() if "egrc eval" in line).strip("# ")
    assert measure == f"egrc eval {base_model.resolve()} --config {path} --out {path.parent}/base"
    assert "9 rows that can be used, of 9" in text
    assert "problems that are never trained on" in text


def test_without_other_problems_the_file_says_that_they_are_trained_on(
    base_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    path = write_config(tmp_path / "new", base_model, data, None, BOXED)
    assert "NOT held out" in path.read_text()
    loaded = load_config(path).config
    assert (loaded.rollout.server, loaded.rollout.colocated, loaded.sync.transport) == ("sglang", True, "ipc")
    assert loaded.data.instruction == BOXED
    assert loaded.megatron.bf16
    assert [str(problem) for problem in problems(loaded, 1, 1)] == []


def test_columns_of_any_name_are_taken_when_they_are_named_and_until_then_the_error_says_how(
    root: Path, base_model: Path, tmp_path: Path
) -> None:
    own, usual = tmp_path / "own.jsonl", root / "egrc_mega/miniature/assets/eval.jsonl"
    own.write_text("\n".join(json.dumps({"task": f"{n} a + 1 = ?", "final": (n + 1) % 10}) for n in range(9)))
    with pytest.raises(DataError, match=r"the row has \['final', 'task'\].* egrc init --prompt-key NAME --answer-key"):
        write_config(tmp_path / "new", base_model, own, None, "")
    keys = {"prompt_key": "task", "answer_key": "final"}
    for evaluation, expected in ((None, ("task", "final")), (usual, ("problem", "answer"))):
        config = load_config(write_config(tmp_path / expected[0], base_model, own, evaluation, "", keys)).config
        assert (config.data.prompt_key, config.data.answer_key) == ("task", "final")
        assert (config.evaluation.prompt_key, config.evaluation.answer_key) == expected
    with pytest.raises(DataError, match="9 of 9 rows"):
        write_config(tmp_path / "new", base_model, own, None, "", {"prompt_key": "question", "answer_key": "final"})


def test_nothing_is_written_where_something_is_wrong(base_model: Path, data: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "x").touch()
    for folder in (taken, data):
        with pytest.raises(ConfigError, match=r"DIR: .* is not empty; give a new folder"):
            write_config(folder, base_model, data, None, "")
    with pytest.raises(ModelError):
        write_config(tmp_path / "new", tmp_path, data, None, "")
    data.write_text('{"a": 1}')
    with pytest.raises(DataError, match="1 of 1 rows are malformed"):
        write_config(tmp_path / "new", base_model, data, None, "")
    assert not (tmp_path / "new").exists()


def test_a_model_without_room_for_a_response_is_refused() -> None:
    with pytest.raises(ConfigError, match="its 21 positions have no room for a response to the longest prompt of 20"):
        new_config._lengths(21, 20)
    assert new_config._lengths(131072, 500).cap == 8192
    assert new_config._lengths(131072, 500).evaluation == 32768


@pytest.mark.parametrize(
    ("positions", "clip_len"), [(131072, 4096), (32768, 4096), (4096, 960), (512, 120), (520, 120), (25, 1), (22, 1)]
)
def test_the_first_clip_len_is_a_quarter_of_the_room_and_at_most_the_papers(positions: int, clip_len: int) -> None:
    """A round number below it, so that nobody takes it for a measurement."""
    found = new_config._lengths(positions, 20)
    assert found.clip_len == clip_len
    assert ("the paper's L" in found.source) == (clip_len == 4096)
