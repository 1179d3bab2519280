"""Text of others cannot act on a terminal, wherever it is shown."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from egrc_mega import relay
from egrc_mega.errors import EgrcError, RolloutError
from egrc_mega.observe.console import StepPrinter
from egrc_mega.observe.rollout_file import StoredStep
from egrc_mega.observe.rollout_view import group_view, step_view
from egrc_mega.plain_text import plain
from egrc_mega.testing.rollouts import make_stored_group, make_stored_sample

ACTS = "\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202e\u200b\ud800"


@pytest.mark.parametrize("character", ACTS)
def test_what_acts_on_a_terminal_is_shown_as_its_escape(character: str) -> None:
    shown = plain(f"a{character}b")
    assert shown.isprintable() and shown[0] == "a" and shown[-1] == "b"
    assert (character in shown) == character.isprintable()


def test_ordinary_text_of_any_script_and_its_lines_stay_as_they_are() -> None:
    text = "x\ty\n\u05d0\u4f60 \u00e9 \U0001f600 \\frac{1}{2}"
    assert plain(text) == text


def test_an_error_quotes_nothing_that_acts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(relay.VARIABLE, raising=False)
    relay.report_error(RolloutError(f"it refused with 400: {ACTS}"))
    shown = capsys.readouterr().err
    assert shown.rstrip("\n").isprintable() and "\\x1b[2J" in shown


def test_an_error_carried_between_processes_quotes_nothing_that_acts(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(relay.VARIABLE, str(tmp_path / "error.json"))
    relay.report_error(RolloutError(ACTS))
    assert json.loads((tmp_path / "error.json").read_text())["message"].isprintable()
    with pytest.raises(EgrcError) as raised:
        relay.raise_reported(tmp_path / "error.json")
    assert str(raised.value).isprintable()


def test_a_line_between_steps_shows_nothing_that_acts() -> None:
    stream = io.StringIO()
    with StepPrinter(2, Console(file=stream, force_terminal=False, soft_wrap=True)) as printer:
        printer.note(f"server 1 is fenced: {ACTS}")
    assert stream.getvalue().rstrip("\n").isprintable()


def test_a_rollout_is_shown_without_what_acts() -> None:
    hostile = make_stored_group(make_stored_sample(text=ACTS), key=ACTS)
    hostile = replace(hostile, prompt=ACTS, answer=ACTS)
    stored = StoredStep(step=1, stage="explore", groups=(hostile,))
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=False, width=200)
    console.print(group_view(stored, 0))
    console.print(step_view(stored))
    assert stream.getvalue().replace("\n", "").isprintable()
