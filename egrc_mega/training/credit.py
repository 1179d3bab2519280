"""Asks the method once a step what each sample teaches, and refuses an answer that cannot be trained on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from egrc_mega.errors import MethodError
from egrc_mega.methods.method import is_graded
from egrc_mega.methods.records import Credit
from egrc_mega.training.turn import Turn
from egrc_mega.types import Group, Sample


def credited(turn: Turn, groups: Sequence[Group]) -> list[list[Credit]]:
    """The credits of a step's groups.

    Raises:
        MethodError: one does not fit its sample; the line names method, problem and sample.
    """
    credits = turn.method.credit(groups, turn.view)
    if not _are_rows(credits):
        raise MethodError(f"method {turn.stage.method}: credit must give a list of Credit for each group, in a list")
    shape, wanted = [len(row) for row in credits], [len(group.samples) for group in groups]
    if shape != wanted:
        raise MethodError(f"method {turn.stage.method}: credit gave rows of {shape} credits for groups of {wanted}")
    for group, row in zip(groups, credits, strict=True):
        for n, (sample, credit) in enumerate(zip(group.samples, row, strict=True)):
            for problem in _problems(sample, credit, len(turn.stage.loss.class_weights)):
                raise MethodError(f"method {turn.stage.method}, problem {group.problem.key}, sample {n}: {problem}")
    return credits


def _are_rows(credits: Any) -> bool:
    return isinstance(credits, list) and all(
        isinstance(row, list) and all(isinstance(credit, Credit) for credit in row) for row in credits
    )


def _problems(sample: Sample, credit: Credit, num_classes: int) -> Iterator[str]:
    size = sample.length if credit.edit is None else len(credit.edit.output_ids)
    if credit.kept and not is_graded(sample):
        yield "it is ungraded and cannot be kept; give it the credit DROPPED"
    for name, value in _numbers(credit):
        if not _is_finite(value):
            yield f"its {name} is not finite: {value!r}"
    if np.shape(credit.advantage) not in ((), (size,)):
        yield f"its advantage has shape {np.shape(credit.advantage)}; give one number, or one for each of {size} tokens"
    if credit.edit is not None and not 0 <= credit.edit.first_changed <= min(size, sample.length):
        yield f"its edit says first_changed {credit.edit.first_changed} of {size} tokens"
    classes = credit.token_class
    if classes is None:
        return
    if np.asarray(classes).dtype.kind not in "iub":
        yield f"its token_class has dtype {np.asarray(classes).dtype}; give whole numbers"
    if len(classes) != size:
        yield f"its token_class has {len(classes)} entries for {size} tokens"
    elif size and not 0 <= int(np.min(classes)) <= int(np.max(classes)) < num_classes:
        yield f"its token_class names classes that loss.class_weights ({num_classes} of them) does not have"


def _numbers(credit: Credit) -> Iterator[tuple[str, Any]]:
    yield "advantage", credit.advantage
    for name in ("reward", "forced_logprob"):
        if getattr(credit, name) is not None:
            yield name, getattr(credit, name)
    yield from ((f"reward term {name}", value) for name, value in credit.terms.items())


def _is_finite(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype.kind in "fiub" and bool(np.all(np.isfinite(array)))
