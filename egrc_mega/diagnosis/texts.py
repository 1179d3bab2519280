"""What one text shows without a model: its steps, its connectors, whether it loops."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from egrc_mega.diagnosis.connectors import REDUNDANT, connectors_in
from egrc_mega.diagnosis.loops import Loop, find_loop, repetition, words_of
from egrc_mega.evaluation.responses import SampledResponse

STEP_MARK = "\n\n"
"""What stands between two steps of reasoning (methods 1.5 and 4, item 7; paper fig. 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """A response's figures; the text itself is let go."""

    place: str
    problem_id: str
    verdict: str | None
    """right, wrong or ungraded, as whoever sampled it has said; None: nobody has judged it."""
    length: int | None
    """Output tokens as stated; None: nobody has counted them."""
    truncated: bool | None
    words: int
    """Words and signs."""
    steps: int
    starting: Counter[str]
    """How often each connector stands at the start of a sentence."""
    elsewhere: Counter[str]
    """How often within one."""
    loop: Loop | None
    repetition: float
    """Share of the runs of four words and signs that have stood in the text before."""

    def as_row(self) -> dict[str, Any]:
        """Plain values for a line of JSON."""
        loop = self.loop
        return {
            "place": self.place,
            "problem": self.problem_id,
            "verdict": self.verdict,
            "length": self.length,
            "truncated": self.truncated,
            "words": self.words,
            "steps": self.steps,
            "connectors_starting": dict(self.starting),
            "connectors_elsewhere": dict(self.elsewhere),
            "redundant": redundant(self),
            "repetition": self.repetition,
            "loop": None if loop is None else {name: getattr(loop, name) for name in Loop.__slots__},
        }


def facts_of(response: SampledResponse, step_mark: str = STEP_MARK) -> TextFacts:
    """The figures of a response; a text of n words takes time of the order of n log n."""
    starting: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    for connector in connectors_in(response.text):
        (starting if connector.starts_sentence else elsewhere)[connector.name] += 1
    words = words_of(response.text)
    return TextFacts(
        place=response.place,
        problem_id=response.problem_id,
        verdict=None if response.verdict is None else response.verdict.value,
        length=response.length,
        truncated=response.truncated,
        words=len(words),
        steps=num_steps(response.text, step_mark),
        starting=starting,
        elsewhere=elsewhere,
        loop=find_loop(response.text, words),
        repetition=repetition(words),
    )


def num_steps(text: str, mark: str = STEP_MARK) -> int:
    """Steps of reasoning: the parts between the marks in which something stands; 0 for an empty text."""
    return sum(1 for part in text.split(mark) if part and not part.isspace())


def redundant(facts: TextFacts) -> int:
    """Redundant connectors of a response, wherever they stand."""
    return sum(facts.starting[name] + facts.elsewhere[name] for name in REDUNDANT)
