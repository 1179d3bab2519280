"""The table of a study: settings by figures, each a mean over seeds with its error, and its distance to a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from egrc_mega.evaluation.store import BASE
from egrc_mega.studies.claims import BySetting
from egrc_mega.studies.connectors import PREFIX
from egrc_mega.studies.lookup import END, Figure, stage_names, temperatures
from egrc_mega.studies.records import Result
from egrc_mega.studies.statistics import Estimate, differences, estimate

SELECTED = {"compressing_groups": "groups that compress", "exploring_groups": "groups that explore"}
"""What only methods with both objectives record: how many groups of a step each of them was given (paper, fig. 3a)."""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure, its heading, and how it is written."""

    key: str
    heading: str
    metric: str
    temperature: float | None = None
    scale: float = 1.0
    """What a value is multiplied with to be shown: 100 for percent."""
    digits: int = 1
    is_compared: bool = True
    """Whether the difference to the reference is of interest."""

    def at(self, point: str) -> Figure:
        """The figure at one point of a run."""
        return Figure(metric=self.metric, point=point, temperature=self.temperature)


@dataclass(frozen=True, slots=True)
class Value:
    """One field of the table."""

    estimate: Estimate | None
    difference: Estimate | None
    """To the reference, over the seeds that both have; None for the reference itself and the base."""


@dataclass(frozen=True, slots=True)
class Row:
    """A setting at one point of its runs."""

    setting: str
    point: str
    num_seeds: int
    values: Mapping[str, Value]
    """By the columns' keys."""


@dataclass(frozen=True, slots=True)
class Table:
    """The whole comparison, settings at their end and after each stage."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    """The base, then every setting at its end."""
    stage_columns: Sequence[Column] = ()
    stage_rows: Sequence[Row] = field(default_factory=tuple)
    """Every setting after each of its stages, where some has more than one."""


def build_table(settings: Sequence[str], reference: str, results: BySetting) -> Table:
    """The table of the results there are; settings without any have empty rows."""
    everything = [result for setting in settings for result in results.get(setting, ())]
    columns = _columns(everything)
    base = _base_row(columns, everything)
    rows = [_row(setting, END, columns, results.get(setting, ()), results.get(reference, ())) for setting in settings]
    stage_columns = [column for column in _columns(everything) if column.key not in ("wall_s", "steps")]
    stage_rows = [
        _row(setting, name, stage_columns, results.get(setting, ()), ())
        for setting in settings
        for name in stage_names(results.get(setting, ()))
    ]
    has_several = any(len(result.stages) > 1 for result in everything)
    return Table(columns, [*base, *rows], stage_columns, stage_rows if has_several else ())


def _columns(results: Sequence[Result]) -> list[Column]:
    columns: list[Column] = []
    for t in temperatures(results):
        at = f"(T {t:g})"
        columns += [
            Column(f"accuracy_t{t:g}", f"accuracy % {at}", "accuracy", t, 100),
            *_ungraded(results, t),
            Column(f"length_t{t:g}", f"tokens {at}", "length", t),
            Column(f"length_share_t{t:g}", f"of base % {at}", "length_share", t, 100, is_compared=False),
            Column(f"l_acc_t{t:g}", f"L-Acc % {at}", "l_acc", t, 100),
        ]
    columns += [
        Column("entropy", "entropy, nats", "entropy", digits=3),
        Column("entropy_rollout", "entropy at rollout T", "entropy_rollout", digits=3, is_compared=False),
    ]
    names = sorted({name for result in results for name in result.curves if name.startswith(PREFIX)}, reverse=True)
    columns += [Column(name, f"{name.removeprefix(PREFIX)} words", name, digits=2) for name in names]
    columns += [
        Column(name, heading, name, is_compared=False)
        for name, heading in SELECTED.items()
        if any(name in result.curves for result in results)
    ]
    columns.append(Column("steps", "steps", "steps", digits=0, is_compared=False))
    return [*columns, Column("wall_s", "wall s", "wall_s", digits=0, is_compared=False)]


def _ungraded(results: Sequence[Result], t: float) -> list[Column]:
    """What an accuracy leaves out stands beside it, wherever any result has left something out."""
    if not any(point["num_ungraded"] for result in results for point in result.points if point["temperature"] == t):
        return []
    return [Column(f"ungraded_t{t:g}", f"ungraded % (T {t:g})", "ungraded", t, 100, is_compared=False)]


def _base_row(columns: Sequence[Column], results: Sequence[Result]) -> list[Row]:
    """The base model's figures, which are the same for all cells: those of the first."""
    if not results:
        return []
    values = {}
    for column in columns:
        found = column.at(BASE).of(results[0]) if column.temperature is not None else None
        values[column.key] = Value(None if found is None else Estimate(found, None, 1), None)
    return [Row(BASE, BASE, 1, values)]


def _row(
    setting: str, point: str, columns: Sequence[Column], results: Sequence[Result], reference: Sequence[Result]
) -> Row:
    values: dict[str, Value] = {}
    for column in columns:
        figure = column.at(point)
        own, theirs = ({r.seed: figure.of(r) for r in side} for side in (results, reference))
        is_reference = any(result.setting == setting for result in reference)
        values[column.key] = Value(estimate(own), None if is_reference else estimate(differences(own, theirs)))
    return Row(setting, point, len(results), values)


def plain(table: Table) -> list[dict[str, Any]]:
    """The table as JSON values, in the figures' own units: shares, tokens, nats, seconds."""
    return [
        {
            "setting": row.setting,
            "point": row.point,
            "seeds": row.num_seeds,
            "figures": {
                key: {"estimate": _plain(value.estimate), "difference": _plain(value.difference)}
                for key, value in row.values.items()
            },
        }
        for row in (*table.rows, *table.stage_rows)
    ]


def _plain(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else {"mean": found.mean, "error": found.error, "n": found.n}
