"""`egrc diagnose`: reads responses, with a model or without, and writes what they are made of."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from egrc_mega.diagnosis.bars import Bars, paired
from egrc_mega.diagnosis.correlation import P_BOUNDS
from egrc_mega.diagnosis.question import Question
from egrc_mega.diagnosis.text_part import diagnose_texts
from egrc_mega.errors import ConfigError, ModelError

RESULT, ROWS, HEATMAP = "diagnosis.json", "responses.jsonl", "heatmap.jsonl"
Note = Callable[[str], None]


def diagnose(question: Question, note: Note = lambda _line: None) -> dict[str, Any]:
    """The diagnosis as plain values; with `out` it is written there, with a line for each response and the figures.

    Args:
        note: told what is being done.

    Raises:
        EgrcError: the responses, the model or the configuration cannot be used.
    """
    if not question.step_mark:
        raise ConfigError("--step-mark: is empty; give the text between two steps, e.g. ';'")
    if question.model and not question.model.is_dir():  # before a long file is read
        raise ModelError(f"{question.model} is not a folder; give a local Hugging Face model folder")
    result = _of_texts(question, note)
    from egrc_mega.diagnosis.model_part import of_model  # after the texts: it imports torch

    with _lines(question.out if question.model else None, HEATMAP) as heatmap:
        result |= of_model(question, note, lambda row: _write(heatmap, row))
    if question.out:
        write_result(result, question.out)
    return result


def _of_texts(question: Question, note: Note) -> dict[str, Any]:
    mark, base = question.step_mark, None
    if question.base:
        note(f"texts of {question.base}")
        base = diagnose_texts(question.base, mark, Bars())
    note(f"texts of {question.rollouts}")
    with _lines(question.out, ROWS) as rows:
        bars = Bars(base.bars.found.keys() if base else None)
        own = diagnose_texts(question.rollouts, mark, bars, lambda facts: _write(rows, facts.as_row()))
    return {
        "responses": str(question.rollouts),
        "model": str(question.model) if question.model else None,
        "base": str(question.base) if question.base else None,
        "step_mark": mark,
        "texts": own.figures,
        "base_texts": base.figures if base else None,
        "bars": paired(own.bars, base.bars if base else None),
    }


def write_result(result: dict[str, Any], out: Path) -> None:
    """Write the JSON and the figures into a folder that exists."""
    from egrc_mega.report.diagnosis_figures import draw_bars, draw_entropy_gradient, draw_words

    # ASCII, because a token that ends within a character may hold what UTF-8 cannot write
    (out / RESULT).write_text(json.dumps(result, indent=1) + "\n")
    draw_bars(result["bars"], out / "steps.svg")
    if tokens := result["tokens"]:
        draw_words(tokens["clouds"]["high"], "Tokens of highest mean entropy", out / "words_high.svg")
        draw_words(tokens["clouds"]["low"], "Tokens of lowest mean entropy", out / "words_low.svg")
        draw_entropy_gradient(tokens["drawn"], P_BOUNDS, out / "entropy_gradient.svg")


@contextmanager
def _lines(out: Path | None, name: str) -> Iterator[IO[str] | None]:
    """A file of JSON lines in the folder for the result, where there is one."""
    if out is None:
        yield None
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / name).open("w") as file:
        yield file


def _write(file: IO[str] | None, row: dict[str, Any]) -> None:
    if file:
        file.write(json.dumps(row) + "\n")
