"""Layouts of responses that other software has written: verl's dumps, lm-eval's sample logs, and plain columns."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from egrc_mega.data.row import Numeral, RowError
from egrc_mega.evaluation.responses import (
    Row,
    RowLayout,
    SampledResponse,
    count_in,
    gold_in,
    id_of_text,
    text_in,
    verdict_in,
)
from egrc_mega.grading.extract import START_OF_THINKING
from egrc_mega.types import Grade

PROBLEMS = ("problem", "question", "prompt")
RESPONSES = ("response", "responses", "completion", "completions", "output", "generation", "generations", "code")
"""`code` is what Qwen2.5-Math's evaluation calls its responses."""
GOLDS = ("gold", "answer", "target_answer", "target", "ground_truth", "expected_answer", "gt", "label")
VERDICTS = ("correct", "is_correct", "pass_or_fail", "acc", "exact_match", "score")
LENGTHS = ("length", "output_length", "num_tokens", "completion_tokens")


def _verl(row: Row, place: str) -> Iterator[SampledResponse]:
    """One response a row. The input is the rendered prompt; dumps of older versions have no golds."""
    prompt = text_in(row, "input")
    yield SampledResponse(
        place=place,
        problem_id=id_of_text(prompt),
        prompt=prompt,
        text=text_in(row, "output"),
        gold=gold_in(row, "gts"),
        verdict=_verdict(row.get("acc", row.get("score"))),
        prompt_thinks=_thinks(prompt),
    )


def _lm_eval(row: Row, place: str) -> Iterator[SampledResponse]:
    """One row a document and filter, with the responses to all repeats; filters change what was extracted only."""
    document = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    asked = _asked(row.get("arguments"))
    prompt = next((document[key] for key in PROBLEMS if isinstance(document.get(key), str)), asked)
    verdict = next((_verdict(row[key]) for key in VERDICTS if key in row), None)
    for text in _responses(row, "resps"):
        yield SampledResponse(
            place=place,
            problem_id=id_of_text(prompt),
            prompt=prompt,
            text=text,
            gold=gold_in(row, "target"),
            verdict=verdict,
            prompt_thinks=_thinks(asked),
        )


def _asked(arguments: Any) -> str:
    """The rendered prompt: `[[prompt, settings]]`, or `{"gen_args_0": {"arg_0": prompt, ...}}` since 0.4.5."""
    for first in [*arguments.values()] if isinstance(arguments, Mapping) else arguments or []:
        found = first.get("arg_0") if isinstance(first, Mapping) else first[0] if isinstance(first, list) else first
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, str):
            return found
    raise RowError("'arguments' holds no prompt; log with --log_samples of lm-eval")


def _columns(row: Row, place: str) -> Iterator[SampledResponse]:
    """One response a row, or a list of them, under one of the usual names."""
    problem = next(key for key in PROBLEMS if key in row)
    response = next(key for key in RESPONSES if key in row)
    prompt = text_in(row, problem)
    gold = next((gold_in(row, key) for key in GOLDS if row.get(key) is not None), None)
    texts = _responses(row, response)
    verdicts = next((row[key] for key in VERDICTS if key in row), None)
    own = verdicts if isinstance(verdicts, list) and len(verdicts) == len(texts) else [verdicts] * len(texts)
    length = next((count_in(row, key) for key in LENGTHS if key in row), None) if len(texts) == 1 else None
    for number, text in enumerate(texts):
        yield SampledResponse(
            place=place if len(texts) == 1 else f"{place}, response {number + 1}",
            problem_id=id_of_text(prompt),
            prompt=prompt,
            text=text,
            gold=gold,
            verdict=_verdict(own[number]),
            length=length,
            truncated=_truncated(row),
            prompt_thinks=_thinks(prompt),
        )


def _egrc(row: Row, place: str) -> Iterator[SampledResponse]:
    """What `egrc eval` keeps of a response, one a row."""
    prompt = text_in(row, "problem")
    yield SampledResponse(
        place=place,
        problem_id=text_in(row, "problem_id"),
        prompt=prompt,
        text=text_in(row, "response"),
        gold=gold_in(row, "gold"),
        length=count_in(row, "length"),
        truncated=_truncated(row),
        prompt_thinks=verdict_in(row, "prompt_thinks") is Grade.RIGHT,
    )


def _responses(row: Row, key: str) -> list[str]:
    """The texts under a key: one, a list, or a list of lists.

    Raises:
        RowError: something else stands there.
    """
    value: Any = row.get(key)
    flat = [value] if isinstance(value, str) else value
    while isinstance(flat, list) and any(isinstance(each, list) for each in flat):
        flat = [one for each in flat for one in (each if isinstance(each, list) else [each])]
    if not isinstance(flat, list) or not flat or not all(isinstance(each, str) for each in flat):
        raise RowError(f"{key!r} must be a response or a list of responses, found {value!r:.80}")
    return flat


def _verdict(value: Any) -> Grade | None:
    """A truth value, or exactly 0 or 1; a shaped score says nothing."""
    if isinstance(value, Numeral):
        value = {0.0: False, 1.0: True}.get(float(value.text))
    return {True: Grade.RIGHT, False: Grade.WRONG}[value] if isinstance(value, bool) else None


def _truncated(row: Row) -> bool | None:
    """By the reason for which it ended; None where none stands."""
    reason = row.get("finish_reason")
    return None if not isinstance(reason, str) else reason == "length"


def _thinks(prompt: str) -> bool | None:
    """True where a rendered prompt ends within an open think part; a plain problem says nothing."""
    return True if prompt.rstrip().endswith(START_OF_THINKING) else None


EGRC = RowLayout("egrc", frozenset({"problem_id", "problem", "response", "gold", "finish_reason"}), _egrc)
VERL = RowLayout("verl", frozenset({"input", "output", "score"}), _verl)
"""verl, `trainer.rollout_data_dir` and `trainer.validation_data_dir`."""
LM_EVAL = RowLayout("lm-eval", frozenset({"doc_id", "resps", "target", "arguments"}), _lm_eval, repeats_by="filter")
"""EleutherAI/lm-evaluation-harness, `--log_samples`."""
FOREIGN = (
    EGRC,
    VERL,
    LM_EVAL,
    *(RowLayout("columns", frozenset(pair), _columns) for pair in product(PROBLEMS, RESPONSES)),
)
"""In the order in which they are tried."""
