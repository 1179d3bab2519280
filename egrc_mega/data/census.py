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

MAX_SHOWN = 20
"""Bad rows on the page."""


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
        yield from _reason_lines(reading.bad)


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


def _reason_lines(bad: list[BadRow]) -> Iterator[str]:
    """How many rows there are of each kind of reason, then the first of them."""
    if not bad:
        return
    yield f"{'quarantined':<16} {'rows':>6}"
    for reason, count in Counter(_kind(row.reason) for row in bad).most_common(MAX_SHOWN):
        yield f"{'':<16} {count:>6}  {reason}"
    for row in bad[:MAX_SHOWN]:
        yield f"line {row.line}: {' '.join(row.reason.split())}"
    if len(bad) > MAX_SHOWN:
        yield f"and {len(bad) - MAX_SHOWN} more"


def _kind(reason: str) -> str:
    """A reason without what it says of the one row."""
    general = re.split(r", found |; |: | at \d", reason, maxsplit=1)[0]
    return re.sub(r"(?<![+\w])\d+", "N", general)
