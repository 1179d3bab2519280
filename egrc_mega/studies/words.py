"""Writes the numbers of a study for people: plain strings, which page and Markdown show alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from egrc_mega.evaluation.store import BASE
from egrc_mega.sections.study import POINT_METRICS, ClaimSection, QuantitySection
from egrc_mega.studies.claims import Verdict
from egrc_mega.studies.lookup import END
from egrc_mega.studies.statistics import Estimate
from egrc_mega.studies.table import Column, Row

NONE = "-"
SHARES = ("accuracy", "length_share", "l_acc", "ungraded", "kept", "truncated")
"""Figures that are written in percent."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A table of strings."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def number(found: Estimate | None, scale: float, digits: int, sign: bool = False) -> str:
    """Mean and standard error, e.g. `98.4 ± 0.3`; the error only where there is one."""
    if found is None:
        return NONE
    rounded = round(scale * found.mean, digits) + 0.0  # which makes -0.0 a plain zero
    mean = f"{rounded:{'+' if sign else ''}.{digits}f}"
    return mean if found.error is None else f"{mean} ± {scale * found.error:.{digits}f}"


def table_listing(title: str, note: str, columns: Sequence[Column], rows: Sequence[Row], by_stage: bool) -> Listing:
    """The table with each difference in brackets behind its mean."""
    shown = [column for column in columns if any(row.values[column.key].estimate for row in rows)]
    header = ["setting", *(["after"] if by_stage else []), "seeds", *(column.heading for column in shown)]
    cells = [
        [
            row.setting,
            *([row.point] if by_stage else []),
            NONE if row.setting == row.point else str(row.num_seeds),
            *(_cell(row, column) for column in shown),
        ]
        for row in rows
    ]
    return Listing(title, note, header, cells)


def _cell(row: Row, column: Column) -> str:
    value = row.values[column.key]
    text = number(value.estimate, column.scale, column.digits)
    if not column.is_compared or value.difference is None or value.estimate is None:
        return text
    return f"{text} ({number(value.difference, column.scale, column.digits, sign=True)})"


def claims_listing(verdicts: Sequence[Verdict]) -> Listing:
    """What was expected, and what is so."""
    rows = [
        [verdict.claim.says, _quantity(verdict), _bound(verdict.claim), _measured(verdict), _verdict(verdict)]
        for verdict in verdicts
    ]
    header = ["expected", "number", "bound", "measured", "verdict"]
    note = (
        "Means over seeds with standard errors; differences are taken seed by seed. A verdict is about the "
        "mean; within its error: the bound is no further from it than one standard error."
    )
    return Listing("What was expected", note, header, rows)


def _quantity(verdict: Verdict) -> str:
    claim, names = verdict.claim, iter(verdict.compared)
    text = _side(claim.of, next(names, "?"))
    if claim.minus is None:
        return text
    return f"{text} minus {_side(claim.minus, next(names, '?'))}{', as a share of it' if claim.relative else ''}"


def _side(quantity: QuantitySection, setting: str) -> str:
    best = f", best by {quantity.best_by}" if quantity.best_of else ""
    if quantity.metric in POINT_METRICS:
        at = "" if quantity.temperature is None else f", T {quantity.temperature:g}"
    else:
        at = f", {quantity.when} 5 steps" if quantity.when in ("first", "last") else f", {quantity.when} of 5 steps"
        at = "" if quantity.metric == "steps" else at
    if quantity.point == BASE:
        return f"{quantity.metric} of the base{at}"
    point = "" if quantity.point == END else f" after {quantity.point}"
    return f"{quantity.metric} of {setting}{point}{at}{best}"


def _scale(claim: ClaimSection) -> tuple[float, int, str]:
    if claim.relative or claim.of.metric in SHARES:
        return 100.0, 1, " %" if claim.relative or claim.minus is None else " points"
    return 1.0, 3 if claim.of.metric.startswith("entropy") else 2, ""


def _bound(claim: ClaimSection) -> str:
    scale, _digits, unit = _scale(claim)
    bound, word = (claim.at_most, "at most") if claim.at_most is not None else (claim.at_least, "at least")
    return f"{word} {scale * (bound or 0.0):g}{unit}"


def _measured(verdict: Verdict) -> str:
    scale, digits, unit = _scale(verdict.claim)
    if verdict.measured is None:
        return "not measured yet"
    text = number(verdict.measured, scale, digits, sign=verdict.claim.minus is not None)
    return f"{text}{unit} ({verdict.measured.n} seed{'s' if verdict.measured.n > 1 else ''})"


def _verdict(verdict: Verdict) -> str:
    """A bound that is nearer to the mean than its standard error is said to be so near."""
    if verdict.measured is None:
        return NONE
    word = "holds" if verdict.holds else "does not hold"
    bound = verdict.claim.at_most if verdict.claim.at_most is not None else verdict.claim.at_least
    distance = abs(verdict.measured.mean - (bound or 0.0))
    return f"{word}, but within its error" if distance < (verdict.measured.error or 0.0) else word


def markdown(listing: Listing) -> str:
    """A table that reads as plain text as well: columns are as wide as their widest field."""
    rows = [[_escaped(text) for text in row] for row in (listing.header, *listing.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(listing.header))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
