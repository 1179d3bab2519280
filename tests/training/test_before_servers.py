"""Whatever the model folder or the data can refuse is refused before a server starts."""

from contextlib import ExitStack, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError, DataError, ModelError
from egrc_mega.miniature.tokenizer import write_tokenizer
from egrc_mega.run_folder import RunFolder
from egrc_mega.stages.state import Spent
from egrc_mega.training import serving
from egrc_mega.training.lead import Lead
from egrc_mega.training.serving import open_renderer
from egrc_mega.training.standalone import evaluate_model

GOOD = '{"problem": "9 a + 1 = ?", "answer": "0", "reference_accuracy": 0.5}'
ADAPT = ["stages=[{method: adaptthink, rollout: {n: 2}}]", "data.facts=[reference_accuracy]"]


@pytest.fixture
def configure(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A configuration whose servers and graders must never be started."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(serving, "GraderPool", started)
    monkeypatch.setattr(serving.Fleet, "start", started)
    (tmp_path / "train.jsonl").write_text(GOOD)
    sets = [f"run.dir={tmp_path / 'run'}", f"data.train={tmp_path / 'train.jsonl'}"]
    return lambda *more: load_config(root / "configs/quickstart.yaml", [*sets, *more]).config


def refused(config: Config, kind: type[Exception], message: str) -> str:
    """What the run is refused with, before any server has started."""
    with ExitStack() as stack, pytest.raises(kind, match=message) as error:
        Lead(config, stack.enter_context(RunFolder.claim(config.run.dir, resume=False)), stack, Spent(), resume=False)
    return str(error.value)


def test_a_run_gets_as_far_as_its_graders(configure: Any) -> None:
    refused(configure(), AssertionError, "started")


def test_rows_and_benchmarks_that_cannot_be_used(configure: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"problem": "9 a <eos>", "answer": "1"}')
    for field in ("data.train", "evaluation.data"):
        told = refused(configure(f"{field}={bad}"), DataError, f"{bad}: 1 of 1 rows .*holds '<eos>', a special token")
        assert "quarantine.jsonl" in told
    allowed = configure(f"data.train={bad}", "data.allow_special_tokens=true")
    assert refused(allowed, AssertionError, "started") == "started"


def test_rows_that_are_set_aside_are_told(configure: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(f"{GOOD}\n{{")
    refused(configure(f"data.train={path}", "data.max_quarantined_share=0.5"), AssertionError, "started")
    aside = tmp_path / "run" / "quarantine.jsonl"
    assert f"1 of 2 rows of {path} are set aside: {aside} says why" in capsys.readouterr().out
    assert aside.read_text().count("\n") == 1


def test_what_methods_force(configure: Any) -> None:
    told = refused(configure(*ADAPT), ConfigError, "forces responses to begin with '</think>'")
    assert "give a text of its vocabulary" in told


def test_a_template_that_cannot_be_used(configure: Any, tmp_path: Path, base_model: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_tokenizer(folder)
    (folder / "config.json").write_text((base_model / "config.json").read_text())
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    config = configure(f"model.path={folder}")
    refused(config, ModelError, "has no generation prompt")
    (folder / "model.safetensors").write_bytes((base_model / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="has no generation prompt"):
        evaluate_model(folder, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_configurations_date_reaches_the_template(configure: Any) -> None:
    assert open_renderer(configure("data.template_date=2023-04-05")).template.today == date(2023, 4, 5)
    assert open_renderer(configure()).template.today == date(2024, 7, 26)


def test_servers_load_the_model_while_whatever_else_there_is_is_started(
    configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, waits = configure(), []
    monkeypatch.setattr(serving, "GraderPool", lambda *_: nullcontext())
    monkeypatch.setattr(serving.Fleet, "start", lambda *_, **named: nullcontext(waits.append(named["waits"])))
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.claim(config.run.dir, resume=False))
        serving.Serving(config, open_renderer(config), folder, stack, print)
    assert waits == [False]
