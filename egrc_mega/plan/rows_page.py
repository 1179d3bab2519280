"""The table of published steps beside what the model says of them, for docs/plan.md."""

from collections.abc import Iterator
from functools import cache

from egrc_mega.plan.constants import CONSTANTS
from egrc_mega.plan.gpus import find_gpu
from egrc_mega.plan.published import Row, predicted_seconds, published, rows

WITHIN = 0.3
"""How far off a prediction may be that is said to hold."""


def rows_page() -> str:
    """Markdown: all eligible steps, those that are not and why, and weight updates."""
    eligible = [row for row in rows() if row.why_not is None]
    parts = [
        _table("### Dense models", [row for row in eligible if not row.is_mixture]),
        _table("### Mixtures of experts", [row for row in eligible if row.is_mixture]),
        _syncs(),
        _left_out(),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def error(row: Row) -> float:
    """Predicted over published, less one."""
    return _predicted(row.name) / row.seconds - 1


@cache
def _predicted(name: str) -> float:
    return predicted_seconds(next(row for row in rows() if row.name == name), CONSTANTS)


def _table(title: str, wanted: list[Row]) -> Iterator[str]:
    others = [row for row in wanted if not row.is_fitted_on]
    hold = sum(abs(error(row)) <= WITHIN for row in others)
    fitted = f"{len(wanted) - len(others)} that were fitted on, and " if len(others) < len(wanted) else ""
    yield title
    yield ""
    yield f"{fitted}{len(others)} others, of which {hold} are met within {100 * WITHIN:.0f} %.".capitalize()
    yield ""
    yield "| step | published s | predicted s | off by | |"
    yield "|---|---|---|---|---|"
    for row in wanted:
        note = "fitted on" if row.is_fitted_on else "" if abs(error(row)) <= WITHIN else "does not hold"
        yield (f"| {row.name} | {row.seconds:g} | {_predicted(row.name):.1f} | {100 * error(row):+.0f} % | {note} |")


def _syncs() -> Iterator[str]:
    gpu = find_gpu("h100-80g")
    rate = gpu.network_bytes_per_s * CONSTANTS.bandwidth_share
    yield "### Weight updates"
    yield ""
    yield "The model counts bytes over the network and nothing else, which no published update reaches:"
    yield ""
    yield "| update | published s | predicted s, at least | source |"
    yield "|---|---|---|---|"
    for sync in published()["syncs"]:
        low, high = sync["seconds"]
        told = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        yield f"| {sync['name']} | {told} | {2e9 * sync['billions'] / rate:.1f} | {sync['source']} |"


def _left_out() -> Iterator[str]:
    yield "### Not compared, and why"
    yield ""
    for row in rows():
        if row.why_not:
            yield f"- {row.name}, {row.seconds:g} s: {row.why_not}."
    for other in published()["not_comparable"]:
        yield f"- {other['name']}: {other['why']} ({other['source']})."
