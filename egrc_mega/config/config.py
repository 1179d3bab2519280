"""A whole run's configuration: the sections, and the stages of every method in use."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from egrc_mega.config.walk import rebuild
from egrc_mega.data.source import SOURCES
from egrc_mega.errors import ConfigError
from egrc_mega.grading.grader import GRADERS
from egrc_mega.methods.catalogue import METHODS
from egrc_mega.methods.reward import REWARDS
from egrc_mega.plugins import load_plugins
from egrc_mega.sections.base import Section
from egrc_mega.sections.data import DataSection, GradingSection
from egrc_mega.sections.evaluation import EvaluationSection
from egrc_mega.sections.health import HealthSection
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.registry import OneOf
from egrc_mega.sections.rollout import RolloutSection, SyncSection
from egrc_mega.sections.run import CheckpointSection, ModelSection, ObserveSection, RunSection
from egrc_mega.sections.stage import StageSection
from egrc_mega.sections.supervisor import SupervisorSection

MOST_CYCLES = 100


def _in_cycle(stage: Any, number: int) -> Any:
    """A stage as it stands in the list, under its name of that cycle."""
    name = (stage.get("label") or stage.get("method")) if isinstance(stage, dict) else None
    return stage if number == 1 or not isinstance(name, str) else stage | {"label": f"{name}.{number}"}


class Config(Section):
    """The configuration of a whole run."""

    plugins: tuple[str, ...] = ()
    """Python files or modules with methods, rewards, graders or data sources of your own."""
    run: RunSection
    """Folder and seed."""
    model: ModelSection
    """What to compress."""
    data: DataSection
    """What to train on."""
    rollout: RolloutSection = RolloutSection()
    """Servers."""
    sync: SyncSection = SyncSection()
    """Weights to the servers."""
    grading: GradingSection = GradingSection()
    """Graders."""
    megatron: MegatronSection = MegatronSection()
    """Layout and optimizer, megatron-core's names."""
    policy: PolicySection = PolicySection()
    """Update step."""
    stages: Annotated[tuple[Annotated[StageSection, OneOf(METHODS)], ...], Field(min_length=1)]
    """In order; the same method may stand there twice, under two labels."""
    cycles: Annotated[int, Field(ge=1, le=MOST_CYCLES)] = 1
    """Times that the list of stages is gone through. From the second on a stage is called `compress.2` and so on."""
    checkpoint: CheckpointSection = CheckpointSection()
    """Commits."""
    evaluation: EvaluationSection
    """Evaluation."""
    health: HealthSection = HealthSection()
    """Alarms, and which of them end the run."""
    observe: ObserveSection = ObserveSection()
    """What is kept to be looked at."""
    supervisor: SupervisorSection = SupervisorSection()
    """Restarts, with `egrc train --supervise`."""

    @model_validator(mode="before")
    @classmethod
    def _write_out_cycles(cls, given: Any) -> Any:
        """The stages as they will be run, one by one: nothing else needs to know of cycles."""
        cycles = given.get("cycles", 1) if isinstance(given, dict) else 1
        stages = given.get("stages") if isinstance(given, dict) else None
        if type(cycles) is not int or not 1 < cycles <= MOST_CYCLES or not isinstance(stages, list):
            return given
        return given | {"cycles": 1, "stages": [_in_cycle(s, n) for n in range(1, cycles + 1) for s in stages]}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for config.yaml, the checkpoint and the report."""
        return self.model_dump(mode="json")


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that an earlier version wrote, with the fields that it did not know at their defaults.

    Defaults of new fields leave things as they were. Where it is none of this version's it comes back as it is.
    """
    try:
        return Config.model_validate(config).to_dict()
    except ValidationError:
        return dict(config)


FAMILIES = (METHODS, REWARDS, GRADERS, SOURCES)
"""Everything that a plugin may add to."""


def use_plugins(names: Sequence[str]) -> None:
    """Make the schema that of the package's own classes and of these plugins, and of no others.

    Raises:
        ConfigError: a plugin cannot be imported or brings nothing, or two of them define classes of one name.
    """
    modules = load_plugins(names)
    for name, module in zip(names, modules, strict=True):
        if not any(family.has_members_of(module) for family in FAMILIES):
            kinds = ", ".join(family.kind for family in FAMILIES)
            raise ConfigError(
                f"plugins: {name} defines no {kinds}; a class is one by its base class and by a section of its own, "
                f"Config = ..., in its body (docs/architecture.md)"
            )
    changed = [family for family in FAMILIES if family.use_plugins(modules)]
    if changed:
        rebuild(Config)
