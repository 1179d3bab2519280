"""How responses that are there already are judged: by which grader, behind which format gate, or as published."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from egrc_mega.errors import ConfigError, DataError
from egrc_mega.evaluation.responses import SampledResponse
from egrc_mega.grading.extract import END_OF_THINKING, START_OF_THINKING
from egrc_mega.grading.grader import GRADERS
from egrc_mega.grading.pool import GraderPool
from egrc_mega.grading.profiles import profile_called
from egrc_mega.grading.worker import Budget
from egrc_mega.sections.data import GradingSection
from egrc_mega.types import Grade, Hints, Verdict

WORDS = " (thinking) "


class Gate(StrEnum):
    """What a response must look like before its answer counts."""

    STRICT = "strict"
    """A `</think>` is demanded, the answer stands after the last one, and no cap has cut the response."""
    OPENED = "opened"
    """The same, but a `</think>` is demanded only where the prompt or the response has opened a think part."""
    ANYWHERE = "anywhere"
    """The last box of the whole text counts, thinking and cut responses included."""


class Verdicts(StrEnum):
    """Whose verdicts make the figures."""

    OURS = "ours"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Judging:
    """All that decides about a verdict besides response and gold."""

    grader: str = "math"
    profile: str = "default"
    """Conventions of the benchmark (docs/grading.md)."""
    gate: Gate = Gate.OPENED
    verdicts: Verdicts = Verdicts.OURS
    cap: int | None = None
    """Responses of at least so many tokens were cut by a cap, where the file does not say; None: nobody knows."""

    def pool(self, num_workers: int) -> GraderPool:
        """The grading processes, to be used as a context manager.

        Raises:
            ConfigError: there is no such grader or profile.
        """
        profile_called(self.profile)
        if self.grader not in GRADERS.members:
            raise ConfigError(f"--grader: {self.grader!r} is unknown; choose from {', '.join(GRADERS.members)}")
        section, chosen = GradingSection(), GRADERS[self.grader]
        budget = Budget(section.cpu_s, section.timeout_s)
        return GraderPool(num_workers, budget, chosen(chosen.Config(grader=self.grader)))

    def is_cut(self, response: SampledResponse, length: int | None) -> bool | None:
        """Whether a cap ended it; None: nobody knows."""
        if response.truncated is not None or self.cap is None or length is None:
            return response.truncated
        return length >= self.cap

    def judge(
        self, pool: GraderPool, responses: Sequence[SampledResponse], cut: Sequence[bool | None]
    ) -> list[Verdict]:
        """The verdicts on responses, in order.

        Raises:
            DataError: a response has no gold, or no verdict where the published ones are wanted; it names the place.
        """
        if self.verdicts is Verdicts.PUBLISHED:
            return [self._published(response) for response in responses]
        golds = [_gold(response) for response in responses]
        texts = [self._opened(response) for response in responses]
        answers = [pool.grader.extract(text, thinks) for text, thinks in texts]
        hints = Hints(profile=self.profile)
        graded = pool.grade([(answer, gold, hints) for answer, gold in zip(answers, golds, strict=True)])
        verdicts = [
            pool.grader.without_answer(*opened) if answer is None else verdict
            for opened, answer, verdict in zip(texts, answers, graded, strict=True)
        ]
        if self.gate is Gate.ANYWHERE:
            return verdicts
        return [_unless_cut(verdict, is_cut) for verdict, is_cut in zip(verdicts, cut, strict=True)]

    def _opened(self, response: SampledResponse) -> tuple[str, bool]:
        """The text that is looked at, and whether it must end a think part."""
        if self.gate is Gate.ANYWHERE:
            # words in the tags' place: boxes on both sides of a tag are not one answer of two parts
            return response.text.replace(END_OF_THINKING, WORDS).replace(START_OF_THINKING, WORDS), False
        return response.text, self.gate is Gate.STRICT or bool(response.prompt_thinks)

    def _published(self, response: SampledResponse) -> Verdict:
        if response.verdict is None:
            raise DataError(f"{response.place} has no published verdict; grade it here (--verdicts ours)")
        return Verdict(grade=response.verdict, reason=response.reason or "published")


def _gold(response: SampledResponse) -> str:
    if response.gold is None:
        raise DataError(
            f"{response.place} has no gold answer, so nobody can grade it; add a column `gold`, or take the verdicts "
            f"that stand in the file (--verdicts published)"
        )
    return response.gold


def _unless_cut(verdict: Verdict, is_cut: bool | None) -> Verdict:
    """A cut response never counts as right."""
    if is_cut and verdict.grade is Grade.RIGHT:
        return Verdict(grade=Grade.WRONG, reason="cut by the cap")
    return verdict
