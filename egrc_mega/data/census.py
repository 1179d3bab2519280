"""What a data file holds, as a page: every row read, every gold understood, every prompt rendered."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from egrc_mega.data.quarantine import BadRow
from egrc_mega.data.reader import Reading, read
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import special_tokens
from egrc_mega.grading.gold import understand
from egrc_mega.sections.data import DataSection

MAX_REASONS = 20
"""Kinds of reasons on the page."""
MAX_PLACES = 5
"""Rows that are named for each."""


@dataclass(frozen=True, slots=True)
class Census:
    """A file, judged row by row; nothing has been written."""

    section: DataSection
    reading: Reading
    lengths: list[int]
    """Tokens of each good row's prompt; empty without a model."""
    template: str
    """What the probe has found of the chat template."""

    def refuse_bad(self) -> None:
        """Refuse the file as a run would.

        Raises:
            DataError: it has too many bad rows, or no good one.
        """
        self.reading.require_enough(self.section, f"`egrc data inspect {self.reading.path}`")

    def lines(self) -> Iterator[str]:
        """The page, line by line, for people."""
        reading = self.reading
        yield f"file     {reading.path}: {reading.total} rows, {len(reading.bad)} of them quarantined"
        yield f"keys     prompt_key: {self.section.prompt_key}, answer_key: {self.section.answer_key}"
        yield f"template {self.template}"
        if self.lengths:
            yield (
                f"prompts  {min(self.lengths)} to {max(self.lengths)} tokens, {fmean(self.lengths):.1f} on average, "
                f"the instruction included"
            )
        yield from _type_lines(reading)
        yield from _reason_lines(reading)


def census(path: Path, section: DataSection, renderer: Renderer | None, *, profile: str | None = "default") -> Census:
    """Read every row, and render every prompt where there is a model.

    Raises:
        DataError: the file cannot be read at all.
        ModelError: the chat template fails on a row.
    """
    tokens = special_tokens(renderer.tokenizer) if renderer else frozenset()
    reading = read(path, section, profile=profile, special_tokens=tokens)
    if renderer is None:
        return Census(section, reading, [], "not rendered: no model, so special tokens in texts are not seen either")
    own = renderer.with_instruction(section.instruction)
    lengths = [len(own.prompt_ids(problem)) for problem in reading.good]
    template = renderer.template
    return Census(section, reading, lengths, f"{template.name}: it {template.proof.line(template.today)}")


def _type_lines(reading: Reading) -> Iterator[str]:
    """How many golds there are of each type, with one of each."""
    types: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for problem in reading.good:
        kind = str(understand(problem.answer, problem.hints).type) if reading.is_mathematics else "text"
        types[kind] += 1
        examples.setdefault(kind, f"{problem.key.rpartition(':')[2]}: {problem.answer}")
    if types:
        yield f"{'type':<16} {'rows':>6} {'share':>7}  for instance, row: answer"
    for kind, count in types.most_common():
        yield f"{kind:<16} {count:>6} {count / reading.total:>7.1%}  {' '.join(examples[kind].split()):.60}"


def _reason_lines(reading: Reading) -> Iterator[str]:
    """Each kind of reason once, the most frequent first: how many rows have it, where, and all of it for the first."""
    kinds: dict[str, list[BadRow]] = {}
    for row in reading.bad:
        kinds.setdefault(_kind(row.reason), []).append(row)
    if kinds:
        yield f"{'quarantined':<16} {'rows':>6}"
    ordered = sorted(kinds.items(), key=lambda item: -len(item[1]))
    for kind, rows in ordered[:MAX_REASONS]:
        yield f"{'':<16} {len(rows):>6}  {kind}"
        yield f"{'':<24} {_places(rows)}: {' '.join(rows[0].reason.split())}"
    if len(ordered) > MAX_REASONS:
        rest = len(ordered) - MAX_REASONS
        yield f"and {rest} more reasons: egrc data inspect {reading.path} --out FILE lists every row"


def _places(rows: list[BadRow]) -> str:
    """The first lines, and how many more there are."""
    named = ", ".join(str(row.line) for row in rows[:MAX_PLACES])
    rest = f" and {len(rows) - MAX_PLACES} more" if len(rows) > MAX_PLACES else ""
    return f"line{'s' * (len(rows) > 1)} {named}{rest}"


def _kind(reason: str) -> str:
    """A reason without what it says of the one row."""
    general = re.split(r", found |; |: | at \d", reason, maxsplit=1)[0]
    return re.sub(r"(?<![+\w])\d+", "N", general)
