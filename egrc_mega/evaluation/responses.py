"""One response that somebody has sampled, whoever it was: the record that evaluation and diagnosis read.

How a new layout of files joins in: write a `RowLayout` whose `responses` turns one parsed row into records, and put it
into `evaluation.layouts.ROW_LAYOUTS`. Readers are iterators and hold one row at a time: a file may be larger than the
memory. What a layout does not state is None, never a guess: who needs it computes it and says so.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egrc_mega.data.answer import answer_of
from egrc_mega.data.row import Numeral, RowError, parsed
from egrc_mega.errors import DataError
from egrc_mega.evaluation.json_stream import stream_rows
from egrc_mega.types import BoolArray, Grade, IntArray

Row = Mapping[str, Any]
"""A parsed JSON object; numbers are `data.row.Numeral`, which keep their digits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampledResponse:
    """A response with the problem that it answers, and what whoever sampled it has said of it.

    Example: `SampledResponse(place="dump.jsonl, row 1", problem_id="p1", prompt="1 + 1 = ?", text="2 </think> 2")`
    """

    place: str
    """File and row, for messages."""
    problem_id: str
    """Samples that share it answer the same problem, across files too. Layouts without ids take `id_of_text`."""
    prompt: str
    """The problem as the user message has it; no chat template."""
    text: str
    """The decoded response, whole. It may hold lone surrogates, which UTF-8 cannot write."""
    gold: str | None = None
    """The gold answer as the graders take it; None: not stated."""
    verdict: Grade | None = None
    """The sampler's own, not ours; None: nobody has judged it."""
    reason: str = ""
    """Why the sampler judged so."""
    length: int | None = None
    """Output tokens as the sampler counted them; None: nobody has."""
    truncated: bool | None = None
    """The cap ended it; None: not stated."""
    prompt_thinks: bool | None = None
    """The rendered prompt ended within an open `<think>`; None: not stated."""
    output_ids: IntArray | None = None
    """int32[O]; None: only the text was kept."""
    sampled: BoolArray | None = None
    """bool[O], False where the method forced the token or an environment wrote it; None: not stated."""


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How the rows of one kind of JSON file are read."""

    name: str
    fields: frozenset[str]
    """Fields by which the first row of a file tells that it is of this kind."""
    responses: Callable[[Row, str], Iterator[SampledResponse]]
    """The responses of a row, whose place is the second argument. Raises RowError for what cannot be used."""
    repeats_by: str | None = None
    """Field by which rows repeat the same responses: those that differ in it from the first row are left out."""


def id_of_text(prompt: str) -> str:
    """A problem's id by its text, for layouts that have none."""
    return hashlib.sha256(prompt.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def of_rows(path: Path, layouts: tuple[RowLayout, ...]) -> Iterator[SampledResponse]:
    """The responses of a JSON file (array or JSON Lines, gzip too), of whichever layout its first row has.

    Raises:
        DataError: the file cannot be read, no layout knows its first row, or a row lacks what the layout needs; it
            names the row, the field and the remedy.
    """
    layout: RowLayout | None = None
    kept: Any = None
    for raw in stream_rows(path):
        place = f"{path}, row {raw.number}"
        try:
            row = parsed(raw.content)
            if layout is None:
                layout = layout_of(row, layouts)
                kept = row.get(layout.repeats_by or "")
            if row.get(layout.repeats_by or "") == kept:
                yield from layout.responses(row, place)
        except RowError as error:
            raise DataError(f"{place} (line {raw.line}): {error}; mend the row or leave it out") from error
    if layout is None:
        raise DataError(f"{path} holds no responses; give a file with at least one")


def layout_of(row: Row, layouts: tuple[RowLayout, ...]) -> RowLayout:
    """The first layout all of whose fields the row has.

    Raises:
        RowError: there is none; the message lists the layouts with their fields.
    """
    for layout in layouts:
        if layout.fields <= row.keys():
            return layout
    examples = {layout.name: layout for layout in reversed(layouts)}
    known = "; ".join(f"{name} by {sorted(layout.fields)}" for name, layout in reversed(examples.items()))
    raise RowError(f"its fields {sorted(row)!r:.200} are of no known layout ({known})")


def text_in(row: Row, key: str) -> str:
    """A text of a row, which may be empty.

    Raises:
        RowError: the field is missing or holds something else.
    """
    if key not in row:
        raise RowError(f"field {key!r} is missing, it has {sorted(row)!r:.200}")
    if not isinstance(row[key], str):
        raise RowError(f"{key!r} must be a text, found {row[key]!r:.80}")
    return str(row[key])


def count_in(row: Row, key: str) -> int | None:
    """A whole number of at least 0, or None where the field is missing or null.

    Raises:
        RowError: it is something else.
    """
    value = row.get(key)
    if value is None:
        return None
    digits = value.plain(key) if isinstance(value, Numeral) else ""
    if not digits.isdecimal():
        raise RowError(f"{key!r} must be a whole number of at least 0, found {value!r:.80}")
    return int(digits)


def gold_in(row: Row, key: str) -> str | None:
    """The gold answer as the graders take it: 142.0 is "142", a list is JSON. None where there is none.

    Raises:
        RowError: there is one, and no grader could use it.
    """
    return None if row.get(key) is None else answer_of(row, key)


def verdict_in(row: Row, key: str) -> Grade | None:
    """A truth value as a verdict; None where the field is missing or null.

    Raises:
        RowError: it is something else.
    """
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, bool):
        raise RowError(f"{key!r} must be true or false, found {value!r:.80}")
    return Grade.RIGHT if value else Grade.WRONG
