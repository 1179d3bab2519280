"""The rollouts and responses that the page can show: a sample within a number of bytes, and what it was taken from."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from egrc_mega.errors import RunError
from egrc_mega.evaluation.records import Response
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample
from egrc_mega.observe.rollouts import FOLDER, StepFile, stored_steps
from egrc_mega.report.curves import rounded
from egrc_mega.report.evaluations import Measured, name_of
from egrc_mega.report.tokens import Pieces

MAX_STEPS = 24
"""Steps whose rollouts are looked at, spread evenly over those that are stored, the first and the last among them."""
ROLLOUT_BYTES, RESPONSE_BYTES = 1_800_000, 900_000
"""What rollouts, and responses of evaluations, may take on the page."""
HEAD, TAIL = 8000, 3000
"""Characters that are shown of a longer text, of its begin and of its end."""
HEAT_TOKENS = 2500
"""Tokens of a response that can be coloured, from its begin."""
BITS = 100
"""Heat is written in hundredths of a nat."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows of a run's stored rollouts."""

    groups: list[dict[str, Any]]
    stored: list[tuple[int, StoredGroup]]
    """The same groups as they are stored, each with its step."""
    facts: dict[str, Any]
    """How many there are of what, for the page to say."""


def rollouts_of(run_dir: Path, pieces: Pieces | None, budget: int = ROLLOUT_BYTES) -> Shown:
    """Whole groups in turn from each of the chosen steps, until the bytes are used up.

    Groups whose prompt comes again in another of the steps go first: they can be looked at before and after.
    """
    with ExitStack() as stack:
        numbers = stored_steps(run_dir / FOLDER)
        files, torn = _open(run_dir, spread(numbers, MAX_STEPS), stack)
        return _chosen(files, torn, len(numbers), pieces, budget)


def _chosen(files: list[StepFile], torn: list[str], num_stored: int, pieces: Pieces | None, budget: int) -> Shown:
    keys = Counter(key for file in files for key in {group["key"] for group in file.index["groups"]})
    found: list[tuple[int, int, dict[str, Any], StoredGroup]] = []
    left = budget
    for file, number in _in_turn([(file, _order(file, keys)) for file in files]):
        try:
            group = file.group(number)
        except RunError:  # torn within
            torn.append(f"step {file.index['step']}")
            continue
        shown = _group(file.index["step"], file.index["stage"], group, pieces)
        left -= len(orjson.dumps(shown))
        if left < 0 and found:
            break
        found.append((file.index["step"], number, shown, group))
    found.sort(key=lambda each: each[:2])
    facts = {
        "num_steps": len({step for step, *_ in found}),
        "num_stored_steps": num_stored,
        "num_rollouts": sum(len(group.samples) for *_, group in found),
        "num_in_steps": sum(len(group["samples"]) for file in files for group in file.index["groups"]),
        "torn": list(dict.fromkeys(torn)),
        "has_pieces": pieces is not None,
    }
    return Shown([shown for *_, shown, _ in found], [(step, group) for step, _, _, group in found], facts)


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many, spread evenly, the first and the last among them."""
    if len(numbers) <= most:
        return list(numbers)
    return [numbers[round(i * (len(numbers) - 1) / (most - 1))] for i in range(most)]


def _open(run_dir: Path, numbers: Sequence[int], stack: ExitStack) -> tuple[list[StepFile], list[str]]:
    """The files that can be read, and the names of those that cannot: a running run removes old ones."""
    files, torn = [], []
    for number in numbers:
        try:
            files.append(stack.enter_context(StepFile(run_dir, number)))
        except RunError:
            torn.append(f"step {number}")
    return files, torn


def _order(file: StepFile, keys: Counter[str]) -> list[int]:
    groups = file.index["groups"]
    return sorted(range(len(groups)), key=lambda number: (-keys[groups[number]["key"]], number))


def _in_turn(files: list[tuple[StepFile, list[int]]]) -> Iterator[tuple[StepFile, int]]:
    """One group of each step after the other: first each step's first, then each step's second."""
    for place in range(max((len(order) for _, order in files), default=0)):
        for file, order in files:
            if place < len(order):
                yield file, order[place]


def _group(step: int, stage: str, group: StoredGroup, pieces: Pieces | None) -> dict[str, Any]:
    return {
        "step": step,
        "stage": stage,
        "key": clipped(group.key),
        "prompt": clipped(group.prompt),
        "answer": clipped(group.answer),
        "samples": [_sample(sample, pieces) for sample in group.samples],
    }


def _sample(sample: StoredSample, pieces: Pieces | None) -> dict[str, Any]:
    advantages = np.atleast_1d(np.asarray(sample.advantage, np.float64))
    is_clipped = len(sample.text) > HEAD + TAIL
    shown: dict[str, Any] = {
        "text": clipped(sample.text),
        "grade": sample.grade,
        "reason": sample.reason,
        "tokens": len(sample.output_ids),
        "reward": rounded(sample.reward),
        "terms": {name: rounded(value) for name, value in sample.terms.items()},
        "advantage": [rounded(float(f(advantages))) for f in (np.min, np.max)] if len(advantages) else None,
        "kept": sample.kept,
        "cut": sample.truncated,
        "ill": not sample.well_formed,
        "version": "+".join(dict.fromkeys(span.version for span in sample.versions)),
    }
    heat = None if is_clipped else _heat(sample, pieces)
    return shown | ({"tag": sample.tag} if sample.tag else {}) | ({"heat": heat} if heat else {})


def _heat(sample: StoredSample, pieces: Pieces | None) -> dict[str, Any] | None:
    """Characters and hundredths of a nat of each token: its entropy where it was recorded, else minus its log-prob."""
    sizes = pieces.cut(sample.text, sample.output_ids[:HEAT_TOKENS]) if pieces else None
    if not sizes or len(sample.output_ids) > HEAT_TOKENS:
        return None
    is_entropy = sample.entropies is not None
    nats = np.asarray(sample.entropies if is_entropy else -sample.logprobs, np.float64)
    values = np.where(sample.sampled, np.rint(BITS * np.nan_to_num(nats)), -1).astype(int).tolist()
    return {"kind": "entropy" if is_entropy else "surprise", "sizes": _in_utf16(sample.text, sizes), "values": values}


def _in_utf16(text: str, sizes: Sequence[int]) -> list[int]:
    """The same sizes as browsers count characters: those beyond the first plane are two."""
    if text.isascii():
        return list(sizes)
    found, begin = [], 0
    for size in sizes:
        piece = text[begin : begin + size]
        found.append(size + sum(ord(character) > 0xFFFF for character in piece))
        begin += size
    return found


def clipped(text: str) -> str:
    """The text with the middle left out where it is long, and that is said; halves of pairs are replaced."""
    if len(text) > HEAD + TAIL:
        left_out = len(text) - HEAD - TAIL
        text = f"{text[:HEAD]}\n\n[… {left_out:,} characters are left out here …]\n\n{text[-TAIL:]}"
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def responses_of(measured: Measured, budget: int = RESPONSE_BYTES) -> dict[str, Any]:
    """The kept responses of the evaluations: problem by problem, all points of a problem together."""
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for key, protocol in measured.protocols():
        for order, point in enumerate(measured.rows(key)):
            where = {"where": name_of(point), "step": point.step or order, "temperature": rounded(protocol.temperature)}
            for response in measured.kept(point):
                by_problem.setdefault(response.problem, []).append(where | _response(response))
    shown: list[dict[str, Any]] = []
    left = budget
    for problem, rows in by_problem.items():
        item = {"prompt": clipped(problem), "answer": rows[0]["gold"], "samples": rows}
        left -= len(orjson.dumps(item))
        if left < 0 and shown:
            break
        shown.append(item)
    return {"problems": shown, "num_problems": len(by_problem), "num_responses": sum(map(len, by_problem.values()))}


def _response(response: Response) -> dict[str, Any]:
    return {
        "text": clipped(response.text),
        "gold": clipped(response.gold),
        "grade": response.grade,
        "reason": response.reason,
        "tokens": response.length,
        "cut": response.truncated,
    }
