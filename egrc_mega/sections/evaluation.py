"""What is measured of the model, on which benchmarks, and when."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.grading.gold import AnswerType
from egrc_mega.sections.base import Section

SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""Names stand in `--set evaluation.sets.NAME.n=4`, in file names and in the keys of trackers."""


class SetSection(Section):
    """One more benchmark, by its name."""

    data: Path
    """JSONL, JSON array or parquet of problems never trained on."""
    prompt_key: str | None = None
    """Field that holds the problem's text; None: evaluation.prompt_key, then data.prompt_key."""
    answer_key: str | None = None
    """Field that holds the gold answer; None: evaluation.answer_key, then data.answer_key."""
    answer_type: AnswerType | None = None
    """Every gold of the benchmark is of this type; None: each as its text says."""
    instruction: str | None = None
    """Text appended to every problem; None: evaluation.instruction, then data.instruction."""
    profile: str | None = None
    """Conventions of the benchmark; None: those of a set that is known by this name (docs/evaluation.md), else
    evaluation.profile, then grading.profile."""
    num_problems: PositiveInt | None = None
    """Problems taken from the start of the file; None: all of them."""
    n: PositiveInt = 1
    """Responses to each problem."""
    temperatures: tuple[PositiveFloat, ...] | None = None
    """One row of the table each; None: evaluation.temperatures."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus; None: evaluation.top_p."""
    max_new_tokens: PositiveInt | None = None
    """Cap; None: evaluation.max_new_tokens."""
    seed: NonNegativeInt | None = None
    """Sampling seed; None: evaluation.seed."""


class BestSection(Section):
    """What makes a checkpoint the best one."""

    metric: Annotated[str, Field(pattern=r"^(accuracy|mean_length|l_acc|pass@[1-9][0-9]*)$")] = "accuracy"
    """accuracy, mean_length, l_acc, or pass@k of a set with at least k samples a problem, k a power of two."""
    set: str = ""
    """Name of the set that it is read from; empty: the first benchmark."""
    temperature: PositiveFloat | None = None
    """One of the set's; None: its first."""
    mode: Literal["max", "min"] = "max"
    """Whether the highest or the lowest value is the best."""


class StopSection(Section):
    """When evaluations end the run, as if its last step were done."""

    patience: PositiveInt | None = None
    """So many evaluations in a row that are no better than the best; None: any number."""
    target: float | None = None
    """A value of the metric that is enough, from which side `evaluation.best.mode` says; None: none is."""


class SpareSection(Section):
    """Servers that sample for nobody else: weights are measured there while training goes on. What is not said here
    they have as `rollout` has it; their losses count by themselves."""

    num_servers: PositiveInt = 1
    """Servers to start, or to wait for in `announce_dir`."""
    urls: tuple[str, ...] = ()
    """Base URLs of external ones. They must see the run's folder."""
    announce_dir: Path | None = None
    """Folder in which external ones announce themselves, another than `rollout.announce_dir`."""
    gpus: tuple[NonNegativeInt, ...] = ()
    """GPU numbers, as in `rollout.gpus`; empty: those that follow the ones of the other servers."""
    max_pending: PositiveInt = 2
    """Points whose numbers are awaited at a time, the one under way among them. Each keeps the weights on the disk, and
    decides about best and stop when so many points have come after it; until then training goes on."""


class EvaluationSection(Section):
    """The table of base / compress / explore: the benchmark `data`, and `sets` beside it."""

    data: Path
    """JSONL, JSON array or parquet of problems never trained on."""
    prompt_key: str | None = None
    """Field that holds the problem's text; None: data.prompt_key."""
    answer_key: str | None = None
    """Field that holds the gold answer; None: data.answer_key."""
    answer_type: AnswerType | None = None
    """Every gold of the benchmark is of this type; None: each as its text says, whatever data.answer_type is."""
    instruction: str | None = None
    """Text appended to every problem; None: data.instruction."""
    profile: str | None = None
    """Conventions of the benchmark, by which its answers are graded; None: grading.profile."""
    num_problems: PositiveInt = 256
    """Problems taken from the start of the file."""
    n: PositiveInt = 1
    """Responses to each problem."""
    temperatures: tuple[PositiveFloat, ...] = (0.6, 1.0)
    """One row of the table each."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus at evaluation."""
    max_new_tokens: PositiveInt = 32768
    """Cap; a response cut by it counts at full length."""
    seed: NonNegativeInt = 12345
    """Sampling seed, the same for every point."""
    sets: dict[SetName, SetSection] = Field(default_factory=dict)
    """More benchmarks, measured with the first one, each under its own name."""
    every: PositiveInt | None = None
    """Also measure within the stages, every so many steps of the run; None: the base and the ends of stages only."""
    spare: SpareSection | None = None
    """Measure beside training, on servers of its own; None: between two steps, on the servers that sample, while
    training waits."""
    best: BestSection | None = None
    """Keep the checkpoint of the best evaluation after the base, beside the newest ones; None: none is the best."""
    stop: StopSection | None = None
    """End the run by its evaluations; None: it goes on to its last step."""
