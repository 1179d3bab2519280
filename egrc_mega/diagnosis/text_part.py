"""The part of a diagnosis that needs no model: every response is read once, and let go."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egrc_mega.diagnosis.bars import Bars
from egrc_mega.diagnosis.text_totals import TextTotals
from egrc_mega.diagnosis.texts import TextFacts, facts_of
from egrc_mega.evaluation.layouts import sampled_responses


@dataclass(frozen=True, slots=True)
class TextPart:
    """What the texts of one file show."""

    figures: dict[str, Any]
    """See `TextTotals.result`."""
    bars: Bars


def diagnose_texts(
    path: Path, step_mark: str, bars: Bars, note: Callable[[TextFacts], None] = lambda _: None
) -> TextPart:
    """The figures of a file's responses.

    Args:
        note: called with each response's figures, in the order of the file.

    Raises:
        DataError: the file cannot be read or holds no responses.
        RunError: a rollout file cannot be read.
    """
    totals = TextTotals()
    for response in sampled_responses(path):
        facts = facts_of(response, step_mark)
        totals.add(facts)
        bars.add(facts)
        note(facts)
    return TextPart(totals.result(), bars)
