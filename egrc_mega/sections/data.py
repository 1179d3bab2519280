"""Training prompts, graders and evaluation."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.data.file_source import FileSourceSection
from egrc_mega.data.source import SOURCES, SourceSection
from egrc_mega.grading.grader import GRADERS, GraderSection
from egrc_mega.grading.math import MathGraderSection
from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import OneOf


class DataSection(Section):
    """Where training prompts come from, and how they are asked."""

    train: Path
    """JSONL or parquet file, one problem a row."""
    source: Annotated[SourceSection, OneOf(SOURCES)] = FileSourceSection()
    """What reads the files; a plugin may bring another."""
    prompt_key: str = "problem"
    """Field that holds the problem's text."""
    answer_key: str = "answer"
    """Field that holds the gold answer."""
    facts: tuple[str, ...] = ()
    """Numeric fields of a row that methods may ask for, e.g. reference_accuracy."""
    instruction: str = ""
    """Text appended to every problem, e.g. "Let's think step by step and output the final answer within \\boxed{}."."""
    shuffle: bool = True
    """A new seeded order each epoch."""
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """More malformed rows than this share stops the run; fewer are set aside in `quarantine.jsonl`."""


class GradingSection(Section):
    """The grader, and its pool of killable processes."""

    grader: Annotated[GraderSection, OneOf(GRADERS)] = MathGraderSection()
    """What judges answers; a plugin may bring another."""
    num_workers: PositiveInt = 2
    """Child processes."""
    timeout_s: PositiveFloat = 5.0
    """Deadline for one answer; what misses it is ungraded and its worker is killed."""


class EvaluationSection(Section):
    """The table of base / compress / explore."""

    data: Path
    """JSONL or parquet of problems never trained on."""
    prompt_key: str | None = None
    """Field that holds the problem's text; None: data.prompt_key."""
    answer_key: str | None = None
    """Field that holds the gold answer; None: data.answer_key."""
    instruction: str | None = None
    """Text appended to every problem; None: data.instruction."""
    num_problems: PositiveInt = 256
    """Problems taken from the start of the file."""
    temperatures: tuple[PositiveFloat, ...] = (0.6, 1.0)
    """One row of the table each."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus at evaluation."""
    max_new_tokens: PositiveInt = 32768
    """Cap; a response cut by it counts at full length."""
    seed: NonNegativeInt = 12345
    """Sampling seed, the same for every point."""
