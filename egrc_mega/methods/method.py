"""The hooks of a method, with the defaults that most methods keep.

A method is a file in this folder (or a plugin): a class, and beside it the section of its configuration. All hooks are
pure functions of their arguments; what a method remembers from step to step is its state, a value that checkpoints
keep. What a reward needs of the plan (a budget, a cap, a mode) travels on the `Ask`, never through the state: batches
that were sampled ahead or carried were planned under an older state.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np

from egrc_mega.errors import ConfigError
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.base import Section
from egrc_mega.sections.registry import Registry
from egrc_mega.sections.stage import IS_FACT, StageSection
from egrc_mega.types import Ask, Drawn, Grade, Group, Problem, Sample

Need = Literal["entropies", "reference_logprobs", "reference_kl", "token_ends"]
"""What a method may ask to find on its samples: the trainer's token entropies, the reference model's log-probs, the
KL of each token to that model, and where in the text each token ends."""

OF_THE_REFERENCE: frozenset[Need] = frozenset({"reference_logprobs", "reference_kl"})
"""Of them what the model that the run began with is asked for."""

Judge = Callable[[Sequence[Drawn], frozenset[Need]], list[Sample]]
"""Grades completions, in order, and measures on them what is needed of their text."""

C = TypeVar("C", bound=StageSection)
S = TypeVar("S", bound=Section)


class NoState(Section):
    """The state of a method that remembers nothing."""


METHODS: Registry["Method[Any, Any]"] = Registry("method")
"""Every method in use, by the name that its section gives it."""


class Method(Generic[C, S]):
    """One object a stage; it has a section and nothing else."""

    Config: ClassVar[type[StageSection]]
    """The method's section. Its field `method` names the method by a `Literal` of one value."""
    State: ClassVar[type[Section]] = NoState
    """What the method remembers; every field has a default, which is what it begins with."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """Measured before `credit` where a method says so; None on the samples of all others."""
    source: ClassVar[str] = ""
    """Where the method comes from: paper and section, or the authors' code."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "Config" in cls.__dict__:
            if cls.credit is Method.credit:
                name = f"{cls.__module__}.{cls.__qualname__}"
                raise ConfigError(f"{name}: a method must say what samples teach, in `credit`")
            METHODS.add(cls)

    def __init__(self, section: C) -> None:
        self.section = section

    def plan(self, problem: Problem, view: View) -> Sequence[Ask]:
        """The samples to draw for one problem: its group. Called before sampling."""
        return [Ask()] * self.section.rollout.n

    def keep(self, group: Group, view: View) -> bool:
        """Whether a finished group is trained on; where not, another is asked for in its place."""
        if self.section.rollout.drop_groups == "all_right_or_wrong":
            return 0 < group.accuracy < 1
        if self.section.rollout.drop_groups == "no_advantage":
            return any(credit.kept and np.any(credit.advantage) for credit in self.credit([group], view)[0])
        return True

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """What each sample teaches, group by group: the whole batch, once a step.

        Ungraded samples must be dropped, and take no part in anybody's statistics.
        """
        raise NotImplementedError

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """More fields for the step's record."""
        return {}

    def remember(self, view: View, groups: Sequence[Group]) -> S:
        """The state after a step's groups have been seen, from the state before; `after_step` is given what it says."""
        state: S = view.state
        return state

    def after_step(self, view: View, record: Mapping[str, Any]) -> S:
        """The state after a step, from the state before it and the step's record."""
        state: S = view.state
        return state

    def problems(self) -> Iterator[str]:
        """What the section's fields say against each other: `field: value; remedy`, one line for each."""
        yield from ()

    @property
    def facts(self) -> frozenset[str]:
        """Names of the facts that the method asks of problems: what its section's fields of type `FactName` say."""
        fields = type(self.section).model_fields
        return frozenset(getattr(self.section, name) for name, field in fields.items() if IS_FACT in field.metadata)

    @property
    def measures(self) -> frozenset[Need]:
        """What is measured in this stage before `credit`: `needs`, and what the section's fields ask for."""
        return self.needs

    @property
    def longest(self) -> int:
        """The longest response that `plan` may ask for, in tokens: what the packing budget must hold."""
        return self.section.rollout.max_new_tokens or 8192


def build_method(section: StageSection) -> Method[Any, Any]:
    """The method object of a stage."""
    return METHODS[section.method](section)


def is_graded(sample: Sample) -> bool:
    """False for a sample without a verdict: it takes no part in any statistic."""
    return sample.grade is not Grade.UNGRADED
