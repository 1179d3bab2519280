"""`evaluation.json`: every point that a folder has measured, and the protocols by which it was done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.errors import RunError
from egrc_mega.evaluation.intake import JudgedResponse
from egrc_mega.evaluation.records import Point, Protocol, Response, Subject
from egrc_mega.evaluation.sample_log import write_samples
from egrc_mega.evaluation.statistics.l_acc import l_acc

TABLE = "evaluation.json"
RESPONSES = "evaluation_responses.json"
BASE = "base"


@dataclass(frozen=True, slots=True)
class Table:
    """What has been measured, in the order in which it was."""

    points: tuple[Point, ...] = ()
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    """By their hash."""

    def find(self, subject: Subject, protocol: Protocol) -> Point | None:
        """What these weights gave under this protocol: the subject's own row before others', or None."""
        same = [p for p in self.points if (p.weights, p.protocol) == (subject.weights, protocol.key)]
        own = [p for p in same if (p.label, p.ordinal, p.step) == (subject.label, subject.ordinal, subject.step)]
        return next(iter(own or same), None)

    def base_of(self, point: Point) -> Point | None:
        """The base that was measured by the same protocol."""
        bases = (p for p in self.points if (p.label, p.ordinal, p.protocol) == (BASE, 0, point.protocol))
        return next(bases, None)


def read_table(run_dir: Path) -> Table:
    """The table, empty when nothing has been measured yet.

    Raises:
        RunError: the file is torn, or of another version of this package.
    """
    stored = _read(run_dir / TABLE, {"points": [], "protocols": {}})
    try:
        protocols = {key: Protocol.of_json(fields) for key, fields in stored["protocols"].items()}
        return Table(tuple(map(Point.of_json, stored["points"])), protocols)
    except (KeyError, TypeError, AttributeError) as error:
        raise _unreadable(run_dir / TABLE, error) from error


def read_responses(run_dir: Path) -> list[Response]:
    """The responses that were kept of every measurement.

    Raises:
        RunError: see `read_table`.
    """
    try:
        return [Response(**fields) for fields in _read(run_dir / RESPONSES, [])]
    except TypeError as error:
        raise _unreadable(run_dir / RESPONSES, error) from error


def add_point(
    run_dir: Path,
    protocol: Protocol,
    point: Point,
    responses: Sequence[Response] = (),
    judged: Sequence[JudgedResponse] = (),
) -> Point:
    """Add a row, in the place of an earlier one of the same place; returns it with its L-Acc.

    Args:
        responses: some, to be looked at; of points within a stage only those of the newest step stay.
        judged: all, as numbers, for comparisons.
    """
    if judged:
        write_samples(run_dir, point, judged)
    table = read_table(run_dir)
    points = {old.place: old for old in table.points} | {point.place: point}
    table = Table(tuple(points.values()), {**table.protocols, protocol.key: protocol})
    table = replace(table, points=tuple(_with_l_acc(table, each) for each in table.points))
    newest = max((each.step or 0 for each in table.points if each.within), default=0)
    looked_at = (each for each in table.points if not each.within or (each.step or 0) == newest)
    named = {(each.weights, each.protocol) for each in looked_at}
    replaced = {(each.weights, each.protocol) for each in responses}
    kept = [r for r in read_responses(run_dir) if (r.weights, r.protocol) in named - replaced]
    _write(run_dir / RESPONSES, [*kept, *responses])
    _write(run_dir / TABLE, {"points": table.points, "protocols": table.protocols})
    return next(each for each in table.points if each.place == point.place)


def _with_l_acc(table: Table, point: Point) -> Point:
    base = table.base_of(point)
    if base is None or point.accuracy is None:
        return replace(point, l_acc=None)
    return replace(point, l_acc=l_acc(point.accuracy, point.mean_length, base.mean_length))


def _read(path: Path, empty: Any) -> Any:
    try:
        return orjson.loads(path.read_bytes()) if path.exists() else empty
    except orjson.JSONDecodeError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} is torn, or was written by another version ({error!r}); move it aside and measure again")


def _write(path: Path, value: Any) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
    partial.replace(path)
