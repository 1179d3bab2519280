"""The model card: true to the measurements, readable for the hub, inert whatever a file says, and without secrets."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from egrc_mega.errors import ConfigError, RunError
from egrc_mega.launch import publish as module
from egrc_mega.launch.model_card import plain_markdown
from egrc_mega.launch.publish import publish
from egrc_mega.testing.made_runs import write_config, write_evaluation, write_steps

ATTACK = "<img src=x> [a](b) | ``` *b*"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run; what its weights compute is proved elsewhere, by a true one."""
    run = tmp_path / "my run"
    (run / "export").mkdir(parents=True)
    (run / "export" / "config.json").write_text("{}")
    (run / "export" / "model.safetensors").write_bytes(b"weights")
    base = tmp_path / "hub" / "models--me--base" / "snapshots" / "1"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\nThe base.")
    write_steps(run, range(1, 7), 6)
    write_config(run, {"model": {"path": str(base)}, "hub_token": "hf_2", "data": {"instruction": ATTACK}})
    write_evaluation(run, ("base", 0, 0), 0.9, 110.0)
    write_evaluation(run, (ATTACK, 1, 6), 0.98, 33.0)
    monkeypatch.setattr(module, "_proved", lambda run_dir, export, note: "Measured: equal.")
    return run


def test_the_card_says_how_it_was_measured_what_it_saves_and_whose_licence_it_has(run: Path) -> None:
    folder = publish(run)
    assert folder == run / "publish" and (folder / "model.safetensors").read_bytes() == b"weights"
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0" and card.data.base_model == "me/base"
    assert {result.metric_value for result in card.data.eval_results} == {0.98, 33}
    text = card.text
    assert "| 98.0 % (80.0 to 95.0) | 33.0 (30.0 to 36.0) | 30.0 % | 82.0 % | 256 | 0 |" in text
    assert "have 30.0 % of the base's length (110.0 to 33.0 tokens)" in text
    assert "against the base with weights `base-0-0`, measured by the same protocol" in text
    assert "Measured: equal." in text and "That of the base model: apache-2.0." in text


def test_no_secret_no_path_of_this_machine_and_no_markup_of_files_is_in_the_card(run: Path, tmp_path: Path) -> None:
    text = (publish(run) / "README.md").read_text()
    assert "hf_" not in text and str(tmp_path) not in text
    outside = text.replace(text[text.index("## Configuration") :], "")
    assert "<img" not in outside and "[a](b)" not in outside
    # the configuration's block is fenced by more than it holds itself
    assert "````yaml" in text
    assert plain_markdown("a|b\n<c>") == "a&#124;b &#60;c&#62;"


def test_what_is_unknown_is_said_to_be(run: Path) -> None:
    (run / "evaluation.json").unlink()
    write_config(run, {"model": {"path": str(run)}})
    card = ModelCard.load(publish(run) / "README.md")
    assert card.data.license == "unknown" and card.data.eval_results is None
    assert "Unknown: nothing was measured before and after." in card.text
    assert "states no licence" in card.text


def test_publishing_again_replaces_and_a_run_without_export_or_checkpoint_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(run, tmp_path / "out")
    (run / "export" / "model.safetensors").write_bytes(b"newer")
    assert (publish(run, tmp_path / "out") / "model.safetensors").read_bytes() == b"newer"
    with pytest.raises(ConfigError, match="lies in the run's export"):
        publish(run, run / "export" / "hub")
    monkeypatch.undo()
    with pytest.raises(RunError, match="holds no whole checkpoint"):
        publish(run)
    (run / "export" / "config.json").unlink()
    with pytest.raises(RunError, match="holds no export"):
        publish(run)
