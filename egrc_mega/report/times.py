"""Where the time and the memory went: the steps' phases over the run, and every span by its name."""

from typing import Any

from egrc_mega.report.curves import rounded
from egrc_mega.report.journal import Journal

MAX_BARS = 60
"""Bars of the figure; of a longer run each one is the mean of several steps."""
WHOLE, BESIDE = "time_step_s", "time_rollout_ahead_s"
"""Not phases: the sum of the phases, and what went on beside them."""


def times_of(journal: Journal) -> dict[str, Any]:
    """Seconds a step by phase, totals by span, and the peak memory of each phase, in GiB."""
    names = [n for n in journal.columns if n.startswith("time_") and n.endswith("_s") and n not in (WHOLE, BESIDE)]
    totals = {name: sum(v or 0.0 for v in journal.columns[name]) for name in names}
    names = sorted((name for name in names if totals[name]), key=lambda name: -totals[name])
    stride = -(-len(journal.steps) // MAX_BARS) or 1
    bars = [_bar(journal, names, begin, stride) for begin in range(0, len(journal.steps), stride)]
    wall = (journal.last or 0.0) - (journal.begun or 0.0)
    memory = [n for n in journal.columns if n.startswith("memory_") and n.endswith("_gib")]
    return {
        "phases": [{"name": _short(name), "seconds": rounded(totals[name])} for name in names],
        "bars": bars,
        "stride": stride,
        "wall_s": rounded(wall),
        "in_steps_s": rounded(sum(totals.values())),
        "spans": [
            {
                "name": name,
                "beside": beside,
                "count": sums.count,
                "own_s": rounded(sums.own_s),
                "longest_s": rounded(sums.longest_s),
                "errors": sums.num_errors,
            }
            for (name, beside), sums in sorted(journal.spans.items(), key=lambda item: -item[1].own_s)
        ],
        "memory": [
            {"name": _short(name), "peak_gib": rounded(max(v or 0.0 for v in journal.columns[name]))} for name in memory
        ],
    }


def _bar(journal: Journal, names: list[str], begin: int, stride: int) -> dict[str, Any]:
    steps = journal.steps[begin : begin + stride]
    parts = [sum(v or 0.0 for v in journal.columns[name][begin : begin + stride]) / len(steps) for name in names]
    return {"first": steps[0], "last": steps[-1], "seconds": [rounded(part) for part in parts]}


def _short(name: str) -> str:
    """`time_rollout_s` is the phase rollout, `memory_train_gib` that of training."""
    return name.removeprefix("time_").removeprefix("memory_").removesuffix("_s").removesuffix("_gib")
