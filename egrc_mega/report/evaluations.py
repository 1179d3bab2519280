"""The evaluation part of the page: what a run measured between its stages, and what `egrc eval` wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.errors import RunError
from egrc_mega.evaluation.records import SHOWN_DIGITS, Point, Protocol, Response
from egrc_mega.evaluation.results import RESULTS
from egrc_mega.evaluation.statistics.budgets import BUDGETS, accuracy_at_budgets
from egrc_mega.evaluation.statistics.outcomes import Outcomes
from egrc_mega.evaluation.store import Table, read_responses, read_table
from egrc_mega.report.curves import rounded
from egrc_mega.types import Grade

Figures = dict[str, Any]
PARTS = (0.125, 0.25, 0.5, 0.75, 1.0)
"""Budgets, as parts of the cap, where the cap is below what the paper's budgets are for."""


@dataclass(frozen=True)
class Measured:
    """All that a folder has measured of its own models."""

    table: Table
    responses: Sequence[Response]

    @classmethod
    def of(cls, run_dir: Path) -> "Measured":
        """Read `evaluation.json` and the responses beside it; both may be missing."""
        return cls(read_table(run_dir), read_responses(run_dir))

    def rows(self, protocol: str) -> list[Point]:
        """Base first, then the stages as they follow one another; of one stage the younger weights last."""
        points = [point for point in self.table.points if point.protocol == protocol]
        return sorted(points, key=lambda point: (point.ordinal, point.step or 0))

    def kept(self, point: Point) -> list[Response]:
        """The responses behind a point that were kept."""
        return [r for r in self.responses if (r.weights, r.protocol) == (point.weights, point.protocol)]

    def protocols(self) -> list[tuple[str, Protocol]]:
        """By benchmark, then by temperature."""
        known = self.table.protocols.items()
        return sorted(known, key=lambda item: (item[1].benchmark, item[1].temperature, item[0]))


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """The base and the last point of the first protocol that has both."""

    base: Point
    final: Point


def before_after(measured: Measured) -> BeforeAfter | None:
    """None where nothing was measured before and after."""
    for key in measured.table.protocols:
        rows = measured.rows(key)
        base = measured.table.base_of(rows[0]) if rows else None
        if base is not None and rows[-1] is not base:
            return BeforeAfter(base, rows[-1])
    return None


def tables_of(measured: Measured) -> list[Figures]:
    """One table a protocol: rows of figures with their intervals, and accuracy at budgets."""
    return [_table(measured, key, protocol) for key, protocol in measured.protocols()]


def _table(measured: Measured, key: str, protocol: Protocol) -> Figures:
    points = measured.rows(key)
    many = protocol.num_problems * protocol.samples_per_problem
    return {
        "benchmark": protocol.benchmark,
        "temperature": protocol.temperature,
        "caption": f"{protocol.benchmark} · {many} responses · cap {protocol.max_new_tokens} tokens · top-p "
        f"{protocol.top_p:g} · seed {protocol.seed} · protocol {key[:SHOWN_DIGITS]}",
        "intervals": "accuracy: Wilson, length: bootstrap, both 95 %",
        "rows": [row_of(point, measured.table.base_of(point)) for point in points],
        "budgets": _budgets(measured, points, protocol.max_new_tokens),
    }


def row_of(point: Point, base: Point | None) -> Figures:
    """A point as a row of a table: figures with their intervals, the length as a share of the base's."""
    return {
        "name": name_of(point),
        "step": point.step,
        "weights": point.weights[:SHOWN_DIGITS],
        "is_base": point is base,
        "accuracy": _figure(point.accuracy, point.accuracy_ci),
        "length": _figure(point.mean_length, point.mean_length_ci),
        "share": rounded(point.mean_length / base.mean_length) if base and base.mean_length else None,
        "l_acc": None if point.l_acc is None else [rounded(point.l_acc)],
        "n": point.n,
        "ungraded": point.num_ungraded,
        "truncated": point.num_truncated,
        "reasons": dict(point.reasons),
    }


def name_of(point: Point) -> str:
    """The row's label with the step of its weights, for a label may stand twice."""
    return point.label if not point.step else f"{point.label}, step {point.step}"


def _figure(value: float | None, interval: Sequence[float]) -> list[float | None] | None:
    return None if value is None else [rounded(value), *(rounded(each) for each in interval)]


def _budgets(measured: Measured, points: Sequence[Point], cap: int) -> Figures | None:
    """Accuracy at token budgets, from the responses that were kept; None where none were."""
    budgets = [b for b in BUDGETS if b < cap] + [cap] if cap > 2 * BUDGETS[0] else [round(cap * part) for part in PARTS]
    rows = []
    for point in points:
        kept = measured.kept(point)
        found = accuracy_at_budgets(outcomes_of(kept), budgets) if kept else []
        if found:
            cells = [[rounded(e.share.estimate.value), rounded(e.share.estimate.low), rounded(e.share.estimate.high)]
                     for e in found]  # fmt: skip
            rows.append({"name": name_of(point), "cells": cells, "num": len(kept)})
    return {"budgets": budgets, "rows": rows} if rows else None


def outcomes_of(responses: Sequence[Response]) -> Outcomes:
    """The columns that statistics are made of."""
    verdicts = [None if r.grade == Grade.UNGRADED.value else float(r.grade == Grade.RIGHT.value) for r in responses]
    return Outcomes.of([r.problem for r in responses], verdicts, [float(r.length) for r in responses])


def results_of(folder: Path) -> list[Figures]:
    """The benchmarks of a folder that `egrc eval --out` wrote: one table each, with one row; empty where it is none.

    Raises:
        RunError: the file cannot be read.
    """
    path = folder / RESULTS
    if not path.is_file():
        return []
    try:
        content = orjson.loads(path.read_bytes())
        sets = [(name, found) for name, found in content["sets"].items() if found.get("summary")]
        return [_results_table(content, name, found) for name, found in sets]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is torn, or of another version ({error!r:.200}); evaluate again") from error


def _results_table(content: Mapping[str, Any], name: str, found: Mapping[str, Any]) -> Figures:
    summary, protocol = found["summary"], str(found["protocol_key"])[:SHOWN_DIGITS]
    label = str(content["label"])
    many, few = summary["num_problems"], summary["samples_per_problem"]
    budgets = summary["budgets"]
    cells = [_estimate(at["share"]["estimate"]) for at in budgets]
    rows = [{"name": label, "cells": cells, "num": summary["num_responses"]}]
    return {
        "benchmark": name,
        "temperature": None,
        "caption": f"{many} problems · {few[0] if few[0] == few[1] else f'{few[0]} to {few[1]}'} samples each · "
        f"lengths in {summary['length_unit']} · protocol {protocol}",
        "intervals": "95 %, clustered by problem",
        "rows": [_results_row(label, content, summary)],
        "budgets": {"budgets": [at["budget"] for at in budgets], "rows": rows} if budgets else None,
        "pass_at": {k: _estimate(share["estimate"]) for k, share in summary["pass_at"].items()},
    }


def _results_row(label: str, content: Mapping[str, Any], summary: Mapping[str, Any]) -> Figures:
    accuracy = summary["accuracy"]
    return {
        "name": label,
        "step": None,
        "weights": str(content["model"])[:SHOWN_DIGITS],
        "is_base": False,
        "accuracy": _estimate(accuracy["estimate"]) if accuracy else None,
        "length": _estimate(summary["length"]) if summary["length"] else None,
        "share": None,
        "l_acc": None,
        "n": summary["num_responses"],
        "ungraded": summary["num_ungraded"],
        "truncated": summary["num_truncated"],
        "reasons": summary["reasons"],
    }


def _estimate(fields: Mapping[str, float]) -> list[float | None]:
    return [rounded(fields[name]) for name in ("value", "low", "high")]
