"""The benchmarks of a configuration: each with its own keys, sampling and conventions, where it states them."""

from dataclasses import dataclass

from egrc_mega.config.config import Config
from egrc_mega.evaluation.known_sets import KNOWN_SETS
from egrc_mega.grading.grader import GRADERS
from egrc_mega.sections.data import DataSection
from egrc_mega.sections.evaluation import SetSection

MAIN = ""
"""Name of the benchmark `evaluation.data`; the others have names of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """One benchmark, with nothing left open."""

    name: str
    data: DataSection
    """How its file is read."""
    profile: str | None
    """Conventions by which it is graded; None: the grader judges no mathematics."""
    num_problems: int | None
    """None: all of the file."""
    n: int
    temperatures: tuple[float, ...]
    top_p: float
    max_new_tokens: int
    seed: int

    @property
    def field(self) -> str:
        """The configuration's name of its file, for messages."""
        return f"evaluation.sets.{self.name}.data" if self.name else "evaluation.data"


def evaluation_sets(config: Config) -> list[EvaluationSet]:
    """The first benchmark, then the others in the order of the configuration."""
    section = config.evaluation
    main = EvaluationSet(
        name=MAIN,
        data=evaluation_data(config),
        profile=evaluation_profile(config),
        num_problems=section.num_problems,
        n=section.n,
        temperatures=section.temperatures,
        top_p=section.top_p,
        max_new_tokens=section.max_new_tokens,
        seed=section.seed,
    )
    return [main, *(_named_set(config, name, own) for name, own in section.sets.items())]


def _named_set(config: Config, name: str, own: SetSection) -> EvaluationSet:
    """What the set does not state is as the first benchmark has it, but for what belongs to that one's file."""
    section = config.evaluation
    keys = {key: getattr(own, key) for key in ("prompt_key", "answer_key", "instruction")}
    stated = {key: value for key, value in keys.items() if value is not None}
    data = evaluation_data(config).model_copy(update={"train": own.data, "answer_type": own.answer_type, **stated})
    known = KNOWN_SETS[name].profile if name in KNOWN_SETS else None
    profile = (own.profile or known or evaluation_profile(config)) if judges_mathematics(config) else None
    return EvaluationSet(
        name=name,
        data=data,
        profile=profile,
        num_problems=own.num_problems,
        n=own.n,
        temperatures=section.temperatures if own.temperatures is None else own.temperatures,
        top_p=own.top_p or section.top_p,
        max_new_tokens=own.max_new_tokens or section.max_new_tokens,
        seed=section.seed if own.seed is None else own.seed,
    )


def evaluation_data(config: Config) -> DataSection:
    """How the first benchmark is read: with the evaluation's own keys and instruction, where it has some."""
    section = config.evaluation
    own = {name: getattr(section, name) for name in ("prompt_key", "answer_key", "instruction")}
    stated = {name: value for name, value in own.items() if value is not None}
    # what only methods ask for is not asked of the benchmark
    other = {"train": section.data, "facts": (), "answer_type": section.answer_type}
    return config.data.model_copy(update={**other, **stated})


def evaluation_profile(config: Config) -> str | None:
    """The conventions by which the first benchmark is graded: the evaluation's own, or the training set's."""
    return (config.evaluation.profile or config.grading.profile) if judges_mathematics(config) else None


def training_profile(config: Config) -> str | None:
    """The conventions of the training set; None where the grader's golds are no mathematics."""
    return config.grading.profile if judges_mathematics(config) else None


def judges_mathematics(config: Config) -> bool:
    """Whether the grader's golds are mathematics, which is understood when it is read."""
    return GRADERS[config.grading.grader.grader].judges_mathematics
