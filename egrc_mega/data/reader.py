"""Makes problems of rows; a row that cannot be used is quarantined with file, line and reason, never skipped."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egrc_mega.data.answer import answer_of, hints_of
from egrc_mega.data.layout import guessed_keys
from egrc_mega.data.quarantine import BadRow, set_aside
from egrc_mega.data.repeats import Repeats
from egrc_mega.data.row import RowError, messages_text, number, parsed, plain_text, text, value_of
from egrc_mega.data.source import SOURCES, Row
from egrc_mega.errors import DataError
from egrc_mega.grading.gold import GoldError, understand
from egrc_mega.sections.data import DataSection
from egrc_mega.types import NO_HINTS, Hints, Problem


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file holds: problems in order, and the rows that cannot be used."""

    path: Path
    good: list[Problem] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    looks_like: tuple[str, str] | None = None
    """Keys that the first rows have for prompt and answer, by the names that data sets use; None: nothing known."""
    is_mathematics: bool = True
    """Whether the golds were understood."""

    @property
    def total(self) -> int:
        """Rows, good and bad."""
        return len(self.good) + len(self.bad)

    def require_enough(self, section: DataSection, where: str) -> None:
        """Refuse a file with no good row, or a larger share of bad ones than the section allows.

        Args:
            where: where the bad rows are listed.

        Raises:
            DataError: it names the first bad row.
        """
        if not self.total:
            raise DataError(f"data file {self.path} has no rows; it needs one JSON object a line")
        if self.good and len(self.bad) <= section.max_quarantined_share * self.total:
            return
        share = section.max_quarantined_share
        rule = f"more than data.max_quarantined_share = {share:g}" if self.good else "none is left"
        first, keys = self.bad[0], (section.prompt_key, section.answer_key)
        guess = self.looks_like if self.looks_like != keys else None
        found = f" (the rows seem to have {guess[0]!r} and {guess[1]!r})" if guess else ""
        raise DataError(
            f"data file {self.path}: {len(self.bad)} of {self.total} rows are malformed, {rule}; "
            f"first: line {first.line}: {first.reason}; mend the rows listed in {where}, "
            f"check data.prompt_key, data.answer_key{found} and data.facts, or raise the share"
        )


def read_problems(
    path: Path,
    section: DataSection,
    quarantine_path: Path,
    *,
    profile: str | None = "default",
    special_tokens: Collection[str] = (),
    note: Callable[[str], None] | None = None,
) -> list[Problem]:
    """Every good row of a file, in order; the bad ones go to the quarantine file. See `read`.

    Args:
        note: gets a line where rows were set aside.

    Raises:
        DataError: no such file, no good row, or a larger share of bad rows than the section allows.
    """
    reading = read(path, section, profile=profile, special_tokens=special_tokens)
    set_aside(reading.bad, quarantine_path)
    reading.require_enough(section, str(quarantine_path))
    if reading.bad and note:
        note(f"{len(reading.bad)} of {reading.total} rows of {path} are set aside: {quarantine_path} says why")
    return reading.good


def read(
    path: Path, section: DataSection, *, profile: str | None = "default", special_tokens: Collection[str] = ()
) -> Reading:
    """Judge every row of a file; writes nothing.

    A row is bad when it is not a JSON object in UTF-8, misses one of the section's keys, holds there what is no text,
    an answer that no grader could use, or one of the special tokens; or when it repeats an earlier problem with an
    answer of another value. A problem repeated with the same answer is good: data sets do that to weigh it. Blank
    lines are no rows.

    Args:
        profile: the conventions of the set, by which golds are understood (`grading.profiles`); None: the golds are
            no mathematics, and taken as they are.
        special_tokens: of the tokenizer; within a problem's text they would become control tokens.

    Raises:
        DataError: the file cannot be read at all.
    """
    reading = _Reader(path, section, profile, special_tokens)
    source = SOURCES[section.source.source](section.source)
    for row in source.rows(path):
        reading.take(Row(*row))
    reading.settle()
    return Reading(path, reading.good, reading.bad, guessed_keys(reading.seen), profile is not None)


class _Reader:
    """The rows of one file under way."""

    def __init__(self, path: Path, section: DataSection, profile: str | None, special_tokens: Collection[str]) -> None:
        self.path, self.section = path, section
        self.is_mathematics = profile is not None
        self.hints = Hints(profile=profile or NO_HINTS.profile, answer_type=section.answer_type)
        tokens = sorted(special_tokens, key=len, reverse=True)
        guarded = bool(tokens) and not section.allow_special_tokens
        self.special = re.compile("|".join(map(re.escape, tokens))) if guarded else None
        self.good: list[Problem] = []
        self.bad: list[BadRow] = []
        self.seen: list[Mapping[str, Any]] = []
        """The first rows that are objects."""
        self._repeats = Repeats(self.is_mathematics)
        self._lines: dict[str, int] = {}
        """Of each problem's row, by the problem's key."""
        self._numbers: Counter[int] = Counter()

    def take(self, row: Row) -> None:
        """Judge a row, and keep it or the reason why not."""
        try:
            problem = self._problem(self._key(row.number), row.content)
            self._repeats.note(problem)
            self._lines[problem.key] = row.line or row.number
            self.good.append(problem)
        except (RowError, GoldError) as error:
            self.bad.append(BadRow(str(self.path), row.line or row.number, str(error)))

    def settle(self) -> None:
        """Set aside the contradictions that could not be told at sight."""
        reasons = self._repeats.contradictions()
        if reasons:
            bad = [BadRow(str(self.path), self._lines[key], reason) for key, reason in reasons.items()]
            self.good = [problem for problem in self.good if problem.key not in reasons]
            self.bad = sorted([*self.bad, *bad], key=lambda row: row.line)

    def _key(self, number: int) -> str:
        """File and row; where files were joined within a line, two rows have its number."""
        self._numbers[number] += 1
        again = self._numbers[number]
        return f"{self.path.name}:{number}" + (f".{again}" if again > 1 else "")

    def _problem(self, key: str, content: bytes | Mapping[str, Any]) -> Problem:
        row = parsed(content) if isinstance(content, bytes) else content
        if not isinstance(row, Mapping):
            raise RowError(f"a JSON object is expected, this is a {type(row).__name__}")
        if len(self.seen) < 20:
            self.seen.append(row)
        section = self.section
        asked, system = _prompt(row, section.prompt_key)
        key_of_answer = section.answer_key
        answer = (
            answer_of(row, key_of_answer)
            if self.is_mathematics
            else plain_text(value_of(row, key_of_answer), key_of_answer)
        )
        facts = {name: number(row, name) for name in section.facts}
        for name, found in ((section.prompt_key, asked), (section.prompt_key, system), (section.answer_key, answer)):
            self._refuse_special_tokens(name, found or "")
        hints = self.hints
        if self.is_mathematics:
            hints = hints_of(row, hints)
            understand(answer, hints)
        return Problem(key=key, text=asked, system=system, answer=answer, hints=hints, facts=facts)

    def _refuse_special_tokens(self, name: str, found: str) -> None:
        if self.special and (token := self.special.search(found)):
            raise RowError(
                f"{name!r} holds {token.group()!r}, a special token of the model's tokenizer, at {token.start()}; take "
                f"it out, or set data.allow_special_tokens"
            )


def _prompt(row: Mapping[str, Any], key: str) -> tuple[str, str | None]:
    """The problem's text, and the system text where the prompt is a chat with one."""
    value = value_of(row, key)
    return messages_text(value, key) if isinstance(value, list) and value else (text(value, key), None)
