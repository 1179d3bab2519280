"""Grades responses from elsewhere: one with all rungs, or a file of them."""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.errors import ConfigError, DataError
from egrc_mega.grading.compat import DeepScaleR, Thinkless
from egrc_mega.grading.gold import GoldError, understand
from egrc_mega.grading.grader import Grader
from egrc_mega.grading.ladder import climbed
from egrc_mega.grading.math import MathGrader
from egrc_mega.grading.pool import GraderPool
from egrc_mega.grading.profiles import profile_called
from egrc_mega.grading.verdicts import Reason
from egrc_mega.grading.worker import Budget
from egrc_mega.sections.data import GradingSection
from egrc_mega.types import Grade, Hints, Verdict
from egrc_mega.unpack import content_of

GRADERS: Mapping[str, type[Grader]] = {"math": MathGrader, "deepscaler": DeepScaleR, "thinkless_compat": Thinkless}
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Question:
    """How responses are to be graded."""

    grader: str
    profile: str
    prompt_thinks: bool
    """The prompts ended within an open `<think>`."""

    @property
    def hints(self) -> Hints:
        """What the data set says of every gold.

        Raises:
            ConfigError: there is no such profile.
        """
        return Hints(profile=profile_called(self.profile).name)

    def pool(self) -> GraderPool:
        """Start the grading processes.

        Raises:
            ConfigError: there is no such grader.
        """
        if self.grader not in GRADERS:
            raise ConfigError(f"--grader: {self.grader!r} is unknown; choose from {', '.join(GRADERS)}")
        section, chosen = GradingSection(), GRADERS[self.grader]
        budget = Budget(section.cpu_s, section.timeout_s)
        return GraderPool(section.num_workers, budget, chosen(chosen.Config(grader=self.grader)))


def grade_one(question: Question, gold: str, response: str) -> str:
    """The rungs and the verdict, as text. A response without any box is taken as the answer itself.

    Raises:
        DataError: the gold cannot be graded.
    """
    try:
        understood = understand(gold, question.hints)
    except GoldError as error:
        raise GoldError(f"--gold: {error}") from None
    with question.pool() as pool:
        is_bare = "box" not in response and "think>" not in response
        answer = response if is_bare else pool.grader.extract(response, question.prompt_thinks)
        if answer is None:
            verdict = pool.grader.without_answer(response, question.prompt_thinks)
        else:
            [verdict] = pool.grade([(answer, gold, question.hints)])
    lines = [f"gold: {understood.type.value} {understood.plain}{f' {understood.unit}' if understood.unit else ''}"]
    lines += [f"extracted: {'nothing' if answer is None else answer}"]
    if answer is not None and question.grader == "math" and verdict.reason not in (Reason.TOO_SLOW, Reason.DIED):
        # the same climb again, for its steps: a grading process has just shown that it ends
        lines += climbed(answer, gold, question.hints, may_evaluate=True)[1][1:]
    return "\n".join([*lines, f"{verdict.grade.value}: {verdict.reason}"])


def grade_file(
    question: Question, path: Path, gold_key: str, response_key: str, verdict_key: str | None, out: Path | None
) -> str:
    """Write each row with `verdict` and `reason`; a summary, and the rows whose other verdict differs.

    Raises:
        DataError: the file cannot be read, or a row has no such column.
    """
    rows = list(_rows(path))
    verdicts: list[Verdict] = []
    with question.pool() as pool:
        for start in range(0, len(rows), BATCH):
            verdicts += _graded(question, pool, path, start, rows[start : start + BATCH], (gold_key, response_key))
    graded = [
        row | {"verdict": verdict.grade.value, "reason": str(verdict.reason)}
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    if out is not None:
        out.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in graded))
    return "\n".join(_summary(graded, gold_key, verdict_key))


def _graded(
    question: Question, pool: GraderPool, path: Path, start: int, rows: Sequence[dict[str, Any]], keys: tuple[str, str]
) -> list[Verdict]:
    texts = [[_text(path, start + i + 1, row, key) for key in keys] for i, row in enumerate(rows)]
    answers = [pool.grader.extract(response, question.prompt_thinks) for _gold, response in texts]
    pairs = [(answer, gold, question.hints) for answer, (gold, _response) in zip(answers, texts, strict=True)]
    return [
        pool.grader.without_answer(response, question.prompt_thinks) if answer is None else verdict
        for answer, (_gold, response), verdict in zip(answers, texts, pool.grade(pairs), strict=True)
    ]


def _text(path: Path, number: int, row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise DataError(f"{path}, row {number}: column {key!r} is missing; the row has {sorted(row)!r:.200}")
    value = row[key]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return orjson.dumps(value).decode()
    return value if isinstance(value, str) else str(value)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Of JSONL or of a JSON array, packed by gzip or not."""
    try:
        content = content_of(path)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    content = content.removeprefix(b"\xef\xbb\xbf").strip()
    lines = [content] if content.startswith(b"[") else content.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not JSON ({error}); JSONL or one JSON array is expected"
            ) from error
        for row in found if isinstance(found, list) else [found]:
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: a JSON object is expected, this is {row!r:.80}")
            yield row


def _summary(rows: Sequence[dict[str, Any]], gold_key: str, verdict_key: str | None) -> Iterator[str]:
    counts = Counter(row["verdict"] for row in rows)
    num_graded = len(rows) - counts[Grade.UNGRADED.value]
    share = f"{100 * counts['right'] / num_graded:.1f}%" if num_graded else "-"
    yield f"{len(rows)} responses: " + ", ".join(f"{counts[grade.value]} {grade.value}" for grade in Grade)
    yield f"accuracy {share} of {num_graded} graded"
    for reason, count in Counter(f"{row['verdict']}: {row['reason']}" for row in rows).most_common():
        yield f"  {count} {reason}"
    if verdict_key is None:
        return
    differing = [
        (i, row) for i, row in enumerate(rows, 1) if _is_right(row, verdict_key) != (row["verdict"] == "right")
    ]
    yield f"{len(differing)} of {len(rows)} differ from {verdict_key}"
    for number, row in differing:
        ours = f"{row['verdict']} ({row['reason']})"
        yield f"  row {number}: {ours}, {verdict_key} {row[verdict_key]!r}, gold {row[gold_key]!r:.60}"


def _is_right(row: dict[str, Any], key: str) -> bool:
    """Somebody else's verdict: a truth value, a number of at least one half, or a word."""
    if key not in row:
        raise DataError(f"--verdict-key: column {key!r} is missing; the row has {sorted(row)!r:.200}")
    value = row[key]
    if isinstance(value, bool | int | float):
        return value >= 0.5
    return str(value).strip().lower() in ("true", "right", "correct", "yes", "1", "1.0", "pass", "passed")
