"""Takes in responses that are there already: judges them batch by batch, and keeps a few numbers of each.

Texts are let go as soon as they are judged, so that memory holds a batch and the numbers, however large the files are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from egrc_mega.errors import DataError
from egrc_mega.evaluation.judging import Judging
from egrc_mega.evaluation.layouts import sampled_responses
from egrc_mega.evaluation.responses import SampledResponse
from egrc_mega.grading.pool import GraderPool
from egrc_mega.types import Grade, Verdict

BATCH = 256
MAX_DIFFERENCES = 50
"""Responses on which the file's own verdict differs that are kept to be shown."""
OWN_TOKENS, CHARACTERS = "tokens, as the file counts them", "characters"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedResponse:
    """What is kept of one response."""

    problem: str
    """The problem's identity."""
    right: bool | None
    """None: ungraded."""
    reason: str
    published: bool | None
    """The file's own verdict; None: it has none."""
    length: int | None
    """Output tokens, as the file or the given tokenizer counts them."""
    characters: int
    truncated: bool | None
    """None: nobody knows."""

    @property
    def differs(self) -> bool:
        """The file's own verdict is another one."""
        return self.published is not None and self.published is not self.right


@dataclass
class Intake:
    """All responses of one benchmark, and what was seen on the way."""

    judged: list[JudgedResponse] = field(default_factory=list)
    golds: dict[str, str] = field(default_factory=dict)
    """By problem; the first that was met."""
    differences: list[str] = field(default_factory=list)
    """Places, with both verdicts, where the file's own differs."""
    length_unit: str = OWN_TOKENS

    def in_one_unit(self) -> "Intake":
        """With lengths in tokens if every response has one, else all of them in characters."""
        if all(each.length is not None for each in self.judged):
            return self
        judged = [replace(each, length=each.characters) for each in self.judged]
        return replace(self, judged=judged, length_unit=CHARACTERS)


CountTokens = Callable[[str], int]


def take_in(
    paths: Iterable[Path],
    judging: Judging,
    pool: GraderPool,
    count_tokens: CountTokens | None = None,
    tell: Callable[[int], None] = lambda number: None,
) -> Intake:
    """Judge every response of some files, which are of one benchmark.

    Args:
        count_tokens: counts instead of the file's own numbers.
        tell: gets the number of responses of each batch that is done.

    Raises:
        DataError: a file cannot be read, or a response cannot be judged; it names the place and the remedy.
    """
    intake = Intake(length_unit="tokens, as the given tokenizer counts them" if count_tokens else OWN_TOKENS)
    for path in paths:
        responses = sampled_responses(path)
        while batch := list(islice(responses, BATCH)):
            _judge_batch(batch, judging, pool, count_tokens, intake)
            tell(len(batch))
    if not intake.judged:
        raise DataError("no responses were found; give files with at least one")
    return intake.in_one_unit()


def _judge_batch(
    batch: list[SampledResponse],
    judging: Judging,
    pool: GraderPool,
    count_tokens: CountTokens | None,
    intake: Intake,
) -> None:
    lengths = [count_tokens(one.text) if count_tokens else one.length for one in batch]
    cut = [judging.is_cut(one, length) for one, length in zip(batch, lengths, strict=True)]
    verdicts = judging.judge(pool, batch, cut)
    for response, length, is_cut, verdict in zip(batch, lengths, cut, verdicts, strict=True):
        judged = JudgedResponse(
            problem=response.problem_id,
            right=_truth(verdict.grade),
            reason=str(verdict.reason),
            published=None if response.verdict is None else _truth(response.verdict),
            length=length,
            characters=len(response.text),
            truncated=is_cut,
        )
        intake.judged.append(judged)
        intake.golds.setdefault(response.problem_id, response.gold or "")
        if judged.differs and len(intake.differences) < MAX_DIFFERENCES:
            intake.differences.append(_difference(response, verdict))


def _truth(grade: Grade) -> bool | None:
    return None if grade is Grade.UNGRADED else grade is Grade.RIGHT


def _difference(response: SampledResponse, verdict: Verdict) -> str:
    return (
        f"{response.place}: {verdict.grade} here ({verdict.reason}), {response.verdict} in the file, "
        f"gold {response.gold!r:.60}"
    )
