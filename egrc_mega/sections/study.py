"""A study: which runs are compared, and what is expected of the comparison."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.sections.base import Section

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")]
"""Names make folders, and a dash joins them."""
PointMetric = Literal["accuracy", "length", "length_share", "l_acc", "ungraded"]
"""Figures of an evaluation: they have a temperature. All others are of the training steps."""
POINT_METRICS = ("accuracy", "length", "length_share", "l_acc", "ungraded")
STEP_CONNECTIVES = ("Then", "So", "Next", "Therefore", "Thus", "Hence")
CHECK_CONNECTIVES = ("Wait", "Hmm", "Alternatively", "But", "However")


class VariantSection(Section):
    """One value of an axis: what it lays over the study's configuration."""

    configs: tuple[Path, ...] = ()
    """More configuration files, laid over the study's."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values by their dotted names, as `--set` takes them, e.g. {stages.compress.clip_len: 32}."""


class QuantitySection(Section):
    """One number of the study: the mean over the seeds of a figure of a setting."""

    setting: str | None = None
    """Name of a setting; None only where `best_of` is given."""
    best_of: tuple[str, ...] = ()
    """In place of a setting: the one of these with the highest mean of `best_by`."""
    best_by: PointMetric = "l_acc"
    """At the same point and temperature."""
    metric: str = "accuracy"
    """accuracy, length, length_share, l_acc or ungraded (a share) of an evaluation; or a field of the steps' records,
    e.g. entropy, steps, connectors_check, compressing_groups."""
    point: str = "end"
    """`base`, `end`, or the name of a stage: the evaluation after it, or its steps."""
    temperature: PositiveFloat | None = None
    """Of the evaluation; None: its first."""
    when: Literal["first", "last", "highest", "lowest"] = "last"
    """Of the steps' records: the mean of the stage's first or last five steps, or the extreme of such means."""


class ClaimSection(Section):
    """What is expected; the page says what was measured, and whether it is so."""

    says: str
    """In words."""
    of: QuantitySection
    """The number."""
    minus: QuantitySection | None = None
    """From which this one is taken, seed by seed."""
    relative: bool = False
    """The difference as a share of what is subtracted."""
    at_least: float | None = None
    """The claim holds from here on."""
    at_most: float | None = None
    """The claim holds up to here."""


class StudySection(Section):
    """A grid of runs: settings, which are the product of the axes, by seeds."""

    title: str = ""
    """Heading of the page; empty: the file's name."""
    about: tuple[str, ...] = ()
    """Paragraphs at the head of the page."""
    findings: tuple[str, ...] = ()
    """Paragraphs behind the claims: what was found when the study was run, and why it is so."""
    dir: Path
    """Folder of the study: a folder for each cell, the table and the page. Hosts that share it share the work."""
    configs: Annotated[tuple[Path, ...], Field(min_length=1)]
    """The configuration of every cell: files, later over earlier ones."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values of every cell by their dotted names, laid over all files; those of a variant win."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    """run.seed of the cells of each setting."""
    axes: Annotated[dict[Name, dict[Name, VariantSection]], Field(min_length=1)]
    """Axis -> name -> variant; a setting takes one of each axis, and is called by their names, joined by a dash."""
    reference: str | None = None
    """The setting to which the others are compared, seed by seed; None: the first."""
    connectors: dict[Name, tuple[str, ...]] = Field(
        default_factory=lambda: {"step": STEP_CONNECTIVES, "check": CHECK_CONNECTIVES}
    )
    """Groups of words that are counted in the responses, whole words whatever their case."""
    curves: tuple[str, ...] | None = None
    """Settings whose training curves are drawn; None: all where there are at most eight."""
    claims: tuple[ClaimSection, ...] = ()
    """What is expected."""
    jobs: PositiveInt | None = None
    """Cells at a time on one host; None: one for each of its cores."""
    cell_timeout_s: PositiveFloat = 604800.0
    """A cell that runs for longer is ended, and has failed."""

    def problems(self, settings: tuple[str, ...]) -> Iterator[str]:
        """What the fields say against each other, one line for each."""
        known = f"there are {', '.join(settings)}"
        if self.reference is not None and self.reference not in settings:
            yield f"reference: there is no setting {self.reference!r}; {known}"
        for name in self.curves or ():
            if name not in settings:
                yield f"curves: there is no setting {name!r}; {known}"
        twice = {seed for seed in self.seeds if self.seeds.count(seed) > 1}
        if twice:
            yield f"seeds: {min(twice)} stands there twice; leave one out"
        for axis, variants in self.axes.items():
            if not variants:
                yield f"axes.{axis}: no variants; name at least one, or leave the axis out"
        for number, claim in enumerate(self.claims):
            for problem in _claim_problems(claim, settings):
                yield f"claims.{number}.{problem}"


def _claim_problems(claim: ClaimSection, settings: tuple[str, ...]) -> Iterator[str]:
    if (claim.at_least is None) == (claim.at_most is None):
        yield "at_least: give it or at_most, and only one of them"
    if claim.relative and claim.minus is None:
        yield "relative: true, but nothing is subtracted; give minus, or leave it out"
    for side, quantity in (("of", claim.of), ("minus", claim.minus)):
        if quantity is None:
            continue
        if (quantity.setting is None) == (not quantity.best_of):
            yield f"{side}.setting: give it or best_of, and only one of them"
        named = (*quantity.best_of, *((quantity.setting,) if quantity.setting else ()))
        for name in named:
            if name not in settings:
                yield f"{side}.setting: there is no setting {name!r}; there are {', '.join(settings)}"
