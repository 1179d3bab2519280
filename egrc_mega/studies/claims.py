"""Holds what a study expects against what it has measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from egrc_mega.sections.study import ClaimSection, QuantitySection
from egrc_mega.studies.lookup import Figure
from egrc_mega.studies.records import Result
from egrc_mega.studies.statistics import Estimate, differences, estimate, ratios

BySetting = Mapping[str, Sequence[Result]]
"""Setting -> its results that went to their end."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, what was measured, and whether it holds."""

    claim: ClaimSection
    measured: Estimate | None
    """None: some of the cells have no result yet."""
    compared: tuple[str, ...]
    """The settings that were looked at: of `best_of` the one that was best."""

    @property
    def holds(self) -> bool | None:
        """Whether the mean is within the bound; None where there is none."""
        if self.measured is None:
            return None
        low, high = self.claim.at_least, self.claim.at_most
        return (low is None or self.measured.mean >= low) and (high is None or self.measured.mean <= high)


def judge(claims: Sequence[ClaimSection], results: BySetting) -> list[Verdict]:
    """A verdict on each claim."""
    return [_judge(claim, results) for claim in claims]


def _judge(claim: ClaimSection, results: BySetting) -> Verdict:
    sides = [side for side in (claim.of, claim.minus) if side is not None]
    names = [_setting(side, results) for side in sides]
    values = [_values(side, name, results) for side, name in zip(sides, names, strict=True)]
    measured = values[0]
    if claim.minus is not None:
        measured = differences(values[0], values[1])
        measured = ratios(measured, values[1]) if claim.relative else measured
    return Verdict(claim, estimate(measured), tuple(name for name in names if name))


def _setting(quantity: QuantitySection, results: BySetting) -> str | None:
    """The setting that is meant; of several the best one, None where none has a result."""
    if quantity.setting is not None:
        return quantity.setting
    figure = Figure(metric=quantity.best_by, point=quantity.point, temperature=quantity.temperature)
    means = {name: estimate(_by_seed(figure, results.get(name, ()))) for name in quantity.best_of}
    known = {name: found.mean for name, found in means.items() if found is not None}
    return max(known, key=lambda name: known[name]) if known else None


def _values(quantity: QuantitySection, setting: str | None, results: BySetting) -> dict[int, float | None]:
    figure = Figure(metric=quantity.metric, point=quantity.point, temperature=quantity.temperature, when=quantity.when)
    return _by_seed(figure, results.get(setting or "", ()))


def _by_seed(figure: Figure, results: Sequence[Result]) -> dict[int, float | None]:
    return {result.seed: figure.of(result) for result in results}
