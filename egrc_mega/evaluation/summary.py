"""The figures of one benchmark, as numbers for `results.json` and as lines for people."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from egrc_mega.evaluation.intake import CHARACTERS, JudgedResponse
from egrc_mega.evaluation.results import SetResult
from egrc_mega.evaluation.statistics.budgets import AtBudget, accuracy_at_budgets
from egrc_mega.evaluation.statistics.intervals import Estimate
from egrc_mega.evaluation.statistics.lengths import mean_length, mean_length_of_right, mean_length_of_wrong
from egrc_mega.evaluation.statistics.shares import Share, ks_of, pass_at_1, pass_at_k


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What one benchmark says of a model."""

    num_problems: int
    samples_per_problem: tuple[int, int]
    num_right: int
    num_responses: int
    num_ungraded: int
    num_truncated: int | None
    """None: of some responses nobody knows whether a cap ended them."""
    accuracy: Share | None
    pass_at: dict[int, Share]
    """By k."""
    length_unit: str
    length: Estimate | None
    length_right: Estimate | None
    length_wrong: Estimate | None
    budgets: list[AtBudget]
    """Empty where lengths are no tokens."""
    reasons: dict[str, int]
    num_published: int | None
    """Responses that are right by the file's own verdicts; None: it has none."""
    num_differing: int

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self) | {"pass_at": {str(k): asdict(share) for k, share in self.pass_at.items()}}


def summarised(found: SetResult) -> Summary:
    """All figures of a benchmark."""
    outcomes, unit = found.outcomes, found.protocol["length_unit"]
    shares = {k: share for k in ks_of(outcomes) if (share := pass_at_k(outcomes, k)) is not None}
    known_ends = [each.truncated for each in found.judged if each.truncated is not None]
    published = [each.published for each in found.judged if each.published is not None]
    return Summary(
        num_problems=len(outcomes.keys),
        samples_per_problem=outcomes.samples_per_problem,
        num_right=sum(each.right is True for each in found.judged),
        num_responses=len(outcomes),
        num_ungraded=len(outcomes) - outcomes.num_graded,
        num_truncated=sum(known_ends) if len(known_ends) == len(outcomes) else None,
        accuracy=pass_at_1(outcomes),
        pass_at=shares,
        length_unit=unit,
        length=mean_length(outcomes),
        length_right=mean_length_of_right(outcomes),
        length_wrong=mean_length_of_wrong(outcomes),
        budgets=[] if unit == CHARACTERS else accuracy_at_budgets(outcomes),
        reasons=found.reasons,
        num_published=sum(published) if published else None,
        num_differing=_num_differing(found.judged),
    )


def _num_differing(judged: Sequence[JudgedResponse]) -> int:
    return sum(each.differs for each in judged)


def summary_lines(name: str, summary: Summary) -> Iterator[str]:
    """The figures in words, a benchmark in a few lines."""
    fewest, most = summary.samples_per_problem
    samples = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    yield f"{name}: {summary.num_problems} problems, {samples} sample{'' if most == 1 else 's'} each"
    graded = summary.num_responses - summary.num_ungraded
    counted = f"{summary.num_right}/{graded} right"
    if summary.num_ungraded:
        counted += f", {summary.num_ungraded} ungraded"
    if summary.accuracy is not None:
        yield f"  pass@1    {percent(summary.accuracy.estimate)}  ({counted})"
        yield from _error_lines(summary.accuracy)
    for k, share in summary.pass_at.items():
        yield f"  {f'pass@{k}':<9} {percent(share.estimate)}"
    if summary.num_published is not None:
        yield (
            f"  published {summary.num_published}/{summary.num_responses} right by the file's own verdicts, "
            f"{summary.num_differing} differ"
        )
    cut = "not stated" if summary.num_truncated is None else str(summary.num_truncated)
    yield f"  length    {tokens(summary.length)}  ({summary.length_unit}; cut by the cap: {cut})"
    yield f"            right {tokens(summary.length_right)}, wrong {tokens(summary.length_wrong)}"
    yield from _budget_lines(summary.budgets)
    shown = [f"{count} {reason}" for reason, count in list(summary.reasons.items())[:6]]
    yield f"  reasons   {', '.join(shown)}"


def _error_lines(share: Share) -> Iterator[str]:
    if share.sampling_error is not None and share.clustered_error is not None:
        yield (
            f"            standard error {100 * share.clustered_error:.1f} over problems, "
            f"{100 * share.sampling_error:.1f} over samples of these problems"
        )


def _budget_lines(budgets: Sequence[AtBudget]) -> Iterator[str]:
    if budgets:
        yield f"  {'budget':<9} " + "".join(f"{f'{at.budget // 1024}k':>8}" for at in budgets)
        yield f"  {'pass@1':<9} " + "".join(f"{100 * at.share.estimate.value:>8.1f}" for at in budgets)
        yield f"  {'cut %':<9} " + "".join(f"{100 * at.share_cut:>8.1f}" for at in budgets)


def percent(estimate: Estimate | None) -> str:
    """A share in per cent with its interval."""
    if estimate is None:
        return "-"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def tokens(estimate: Estimate | None) -> str:
    """A length with its interval."""
    return "-" if estimate is None else f"{estimate.value:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]"
