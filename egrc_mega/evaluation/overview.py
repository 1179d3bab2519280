"""The table that stands at the end of a run: the base and each stage, a block for each set and temperature."""

from collections.abc import Iterator

from egrc_mega.evaluation.records import Point
from egrc_mega.evaluation.store import Table

NAME_WIDTH = 28


def overview(table: Table) -> Iterator[str]:
    """Lines within 80 characters; what was measured within a stage is left out."""
    points = [point for point in table.points if not point.within]
    for key, protocol in table.protocols.items():
        rows = sorted((p for p in points if p.protocol == key), key=lambda p: (p.ordinal, p.step or 0))
        if rows:
            name = f"{rows[0].set or protocol.benchmark.split('.')[0]} at T {protocol.temperature:g}"
            yield f"{name:<{NAME_WIDTH}.{NAME_WIDTH}}{'acc':>8}{'ungraded':>10}{'length':>9}{'share':>7}{'L-Acc':>7}"
            yield from (_row(point, table.base_of(point)) for point in rows)


def _row(point: Point, base: Point | None) -> str:
    name = f"  {point.label}, step {point.step}" if point.step else f"  {point.label}"
    accuracy = "-" if point.accuracy is None else f"{100 * point.accuracy:.1f}%"
    share = f"{point.mean_length / base.mean_length:.0%}" if base and base.mean_length and base != point else "-"
    l_acc = "-" if point.l_acc is None or base == point else f"{100 * point.l_acc:.1f}"
    ungraded = f"{point.num_ungraded}/{point.n}"
    return f"{name:<{NAME_WIDTH}}{accuracy:>8}{ungraded:>10}{point.mean_length:>9.1f}{share:>7}{l_acc:>7}"
