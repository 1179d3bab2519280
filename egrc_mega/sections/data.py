"""Training prompts and graders."""

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

import egrc_mega.grading.compat  # noqa: F401  graders of published work join their family by being defined
from egrc_mega.data.file_source import FileSourceSection
from egrc_mega.data.source import SOURCES, SourceSection
from egrc_mega.grading.gold import AnswerType
from egrc_mega.grading.grader import GRADERS, GraderSection
from egrc_mega.grading.math import MathGraderSection
from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import OneOf


class DataSection(Section):
    """Where training prompts come from, and how they are asked."""

    train: Path
    """JSONL, JSON array or parquet file, one problem a row."""
    source: Annotated[SourceSection, OneOf(SOURCES)] = FileSourceSection()
    """What reads the files; a plugin may bring another."""
    prompt_key: str = "problem"
    """Field that holds the problem's text, or a chat with one question; a dot goes into a nested field."""
    answer_key: str = "answer"
    """Field that holds the gold answer; a dot goes into a nested field, e.g. reward_model.ground_truth."""
    answer_type: AnswerType | None = None
    """Every gold is of this type; None: each as its text says. Golds that cannot be of the type are set aside."""
    facts: tuple[str, ...] = ()
    """Numeric fields of a row that methods may ask for, e.g. reference_accuracy."""
    instruction: str = ""
    """Text appended to every problem, e.g. "Let's think step by step and output the final answer within \\boxed{}.".
    One space stands before it, or the line ends with which it begins."""
    template_date: date = date(2024, 7, 26)
    """What a chat template that prints the date is told, so that prompts are the same on every day."""
    allow_special_tokens: bool = False
    """Take problems whose text holds a special token of the tokenizer, such as </think>; it becomes that token."""
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
    profile: str = "default"
    """Conventions of the training set: default, aime, amc, math, gsm8k, minerva, olympiadbench or deepscaler."""
    cpu_s: PositiveFloat = 0.4
    """CPU seconds for one answer; an answer that spends them is wrong."""
    timeout_s: PositiveFloat = 60.0
    """Seconds on the clock for one answer; what the machine twice gives no CPU time for so long is ungraded."""
