"""A run in three sentences, made of its numbers: what it came to, how the training went, what went wrong."""

from collections.abc import Sequence

from egrc_mega.report.curves import bands_of
from egrc_mega.report.evaluations import BeforeAfter, name_of
from egrc_mega.report.journal import Journal

ENDS = 10
"""Steps at either end of the training whose mean is told: one step is a small sample."""


def summary_of(journal: Journal, change: BeforeAfter | None, num_tables: int) -> list[str]:
    """Three sentences; of a folder of evaluations alone, which has no training, one."""
    first = _of_change(change) if change else _of_no_change(journal, num_tables)
    return [first, _of_training(journal), _of_troubles(journal)] if journal.begun is not None else [first]


def _of_change(change: BeforeAfter) -> str:
    base, final = change.base, change.final
    share = final.mean_length / base.mean_length if base.mean_length else 0.0
    verb = "shrank to" if share < 1 else "grew to" if share > 1 else "stayed at"
    return (
        f"From {name_of(base)} to {name_of(final)} responses {verb} {_percent(share)} of their length "
        f"({base.mean_length:.1f} to {final.mean_length:.1f} tokens) while {_of_accuracy(change)} "
        f"({base.num_ungraded} of {base.n} and {final.num_ungraded} of {final.n} ungraded) "
        f"at temperature {base.temperature:g}."
    )


def _of_accuracy(change: BeforeAfter) -> str:
    base, final = change.base, change.final
    if base.accuracy is None or final.accuracy is None:
        return f"accuracy went from {_percent(base.accuracy)} to {_percent(final.accuracy)}"
    points = 100 * (final.accuracy - base.accuracy)
    verb = "rose" if points > 0 else "fell" if points < 0 else "stayed"
    moved = (
        f"from {_percent(base.accuracy)} to {_percent(final.accuracy)}" if points else f"at {_percent(base.accuracy)}"
    )
    (low, high), (base_low, base_high) = final.accuracy_ci, base.accuracy_ci
    overlap = ", within overlapping 95 % intervals" if points and low <= base_high and base_low <= high else ""
    return f"accuracy {verb} {moved}{overlap}"


def _of_no_change(journal: Journal, num_tables: int) -> str:
    if journal.begun is None:
        return f"This folder holds evaluations ({num_tables}), and no training."
    if num_tables:
        return "There is no before and after yet: nothing was measured since the base."
    return "Nothing has been measured yet: the numbers below are of training responses."


def _of_training(journal: Journal) -> str:
    done, total = (journal.steps[-1] if journal.steps else 0), journal.total_steps
    if not done:
        return "The run is unfinished: no step has finished yet."
    stages = ", ".join(f"{band['label']} {band['last'] - band['first'] + 1}" for band in bands_of(journal))
    opening = (
        f"Training took {done} steps ({stages})"
        if journal.has_ended
        else f"The run is unfinished, still going or stopped early: {done} of at most {total} steps are done ({stages})"
    )
    told = [text for text in map(_of_column, *zip(*_COLUMNS, strict=True), [journal] * len(_COLUMNS)) if text]
    return f"{opening}{f'; {_and(told)}' if told else ''}."


_COLUMNS = (
    ("length", "the mean length of its responses", "{:.1f}", " tokens"),
    ("accuracy", "their accuracy", "{:.1%}", ""),
    ("entropy", "the entropy", "{:.3f}", " nats a token"),
)


def _of_column(name: str, words: str, form: str, unit: str, journal: Journal) -> str:
    known = [value for value in journal.columns.get(name, ()) if value is not None]
    if not known:
        return ""
    ends = max(1, min(ENDS, len(known) // 2))
    first, last = sum(known[:ends]) / ends, sum(known[-ends:]) / ends
    if form.format(first) == form.format(last):
        return f"{words} stayed at {_spaced(form.format(first))}{unit}"
    verb = "rose" if last > first else "fell"
    return f"{words} {verb} from {_spaced(form.format(first))} to {_spaced(form.format(last))}{unit}"


def _of_troubles(journal: Journal) -> str:
    last = {name: int(values[-1] or 0) for name, values in journal.columns.items() if values}
    skipped = sum(value == 0 for value in journal.columns.get("updated", ()))
    counts = journal.num_incidents
    warnings = sum(count for kind, count in counts.items() if kind not in ("resume", "server", "no update"))
    counted = [
        (counts["resume"], "resume", "resumes"),
        (last.get("server_restarts", 0), "server restart", "server restarts"),
        (last.get("lost_requests", 0), "lost request", "lost requests"),
        (skipped, "step without an update", "steps without an update"),
        (warnings, "warning", "warnings"),
    ]
    told = [f"{count} {one if count == 1 else many}" for count, one, many in counted if count]
    return (
        f"On the way there {'was' if told[0].startswith('1 ') else 'were'} {_and(told)}."
        if told
        else ("Nothing was lost, restarted or resumed on the way.")
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f}\u00a0%"


def _spaced(text: str) -> str:
    return text.replace("%", "\u00a0%")


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
