"""Groups of a recorded batch: lengths, verdicts and what was measured of responses whose tokens nobody has kept.

A group of the batch has `ref_accuracy` and `ref_mean_length` (of the base model's responses), `history_len` (the
shortest right response of earlier steps, or null) and `num_tokens` (the budget that the prompt states); they become the
problem's facts `reference_accuracy`, `reference_length`, `history_length` and the ask's fact `budget`. A sample has
`length`, `grade`, `truncated`, `well_formed`, `mode` (think or nothink: the ask's tag) and `think_len`, and of what was
measured `repetitive`, `valid_prefix`, `exit_index` and `step_entropies`: facts of its ask, for there is no text that
could be measured again. All but the first four may be missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from egrc_mega.errors import DataError
from egrc_mega.methods.modes import NO_THINKING, THINKING
from egrc_mega.types import Ask, Completion, FinishReason, Grade, Group, Problem, Sample

Record = Mapping[str, Any]
OF_PROBLEM = {
    "ref_accuracy": "reference_accuracy",
    "ref_mean_length": "reference_length",
    "history_len": "history_length",
}
"""Field of a group -> the fact of its problem."""
OF_SAMPLE = ("repetitive", "valid_prefix", "exit_index")
"""Fields of a sample that become facts of its ask under their own names."""
REQUIRED = ("length", "grade", "truncated", "well_formed")
"""Fields without which a sample cannot be credited."""
MODES = {"think": THINKING, "nothink": NO_THINKING}


def recorded_groups(batch: Record, name: str = "groups") -> list[Group]:
    """The groups of a batch.

    Args:
        batch: parsed JSON: `cap`, `step` and lists of groups.
        name: which of its lists.

    Raises:
        DataError: there is no such list, or a field is missing or cannot be used; the line says where.
    """
    if not isinstance(batch.get(name), list):
        raise DataError(f"the batch has no list {name!r} of groups; it has {sorted(batch)}")
    return [_group(group, f"{name}[{i}]", batch.get("cap")) for i, group in enumerate(batch[name])]


def _group(group: Record, place: str, cap: int | None) -> Group:
    facts = {fact: float(group[key]) for key, fact in OF_PROBLEM.items() if group.get(key) is not None}
    problem = Problem(key=str(group.get("id", place)), text="", answer="", facts=facts)
    budget = {"budget": float(group["num_tokens"])} if group.get("num_tokens") is not None else {}
    samples = []
    for i, sample in enumerate(group.get("samples", ())):
        try:
            samples.append(_sample(sample, problem, budget, cap))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}.samples[{i}] of the batch cannot be used: {error!r}; docs/methods.md") from error
    if not samples:
        raise DataError(f"{place}.samples: there is none; a group has at least one")
    return Group(problem=problem, samples=tuple(samples))


def _sample(sample: Record, problem: Problem, budget: Mapping[str, float], cap: int | None) -> Sample:
    if missing := [name for name in REQUIRED if name not in sample]:
        raise ValueError(f"{', '.join(missing)} missing; a sample needs {', '.join(REQUIRED)}")
    if sample["length"] < 1:
        raise ValueError(f"length {sample['length']} is below 1")
    measured = {name: float(sample[name]) for name in OF_SAMPLE if sample.get(name) is not None}
    facts = {**budget, **measured, **_numbered("step_entropy", sample.get("step_entropies", ()))}
    tag = MODES[sample["mode"]] if sample.get("mode") else ""
    return Sample(
        problem=problem,
        ask=Ask(tag=tag, max_new_tokens=cap, facts=facts),
        prompt_ids=np.zeros(1, np.int32),
        completion=_completion(str(sample.get("id", "")), int(sample["length"]), bool(sample["truncated"])),
        text="",
        grade=Grade(sample["grade"]),
        well_formed=bool(sample["well_formed"]),
        think_length=_think_length(sample, tag),
    )


def _completion(rid: str, length: int, truncated: bool) -> Completion:
    """No token is known, so they are numbered: none repeats."""
    return Completion(
        rid=rid,
        output_ids=np.arange(length, dtype=np.int32),
        logprobs=np.zeros(length, np.float32),
        sampled=np.ones(length, np.bool_),
        finish_reason=FinishReason.LENGTH if truncated else FinishReason.STOP,
        weight_versions=(),
    )


def _think_length(sample: Record, tag: str) -> int | None:
    """Tokens up to `</think>`, that one included; the batch counts those before it, and 0 where there is none."""
    before = int(sample.get("think_len") or 0)
    return before + 1 if before or tag == NO_THINKING else None


def _numbered(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}_{i}": float(value) for i, value in enumerate(values)}


def numbered_facts(sample: Sample, name: str) -> list[float]:
    """The values of a list that a batch has recorded of a sample, e.g. its `step_entropy`; empty where it has none."""
    facts = sample.ask.facts
    values: list[float] = []
    while f"{name}_{len(values)}" in facts:
        values.append(facts[f"{name}_{len(values)}"])
    return values
