"""Points of an evaluation made by hand."""

from typing import Any

from egrc_mega.evaluation.records import Point, Protocol, Subject


def make_subject(label: str = "base", ordinal: int = 0, step: int | None = 0, weights: str | None = None) -> Subject:
    """A subject; its weights are named after its place unless they are given."""
    return Subject(label=label, ordinal=ordinal, step=step, weights=weights or f"{label}-{ordinal}-{step}")


def make_protocol(**changes: Any) -> Protocol:
    """A plausible protocol, changed as asked."""
    fields: dict[str, Any] = {
        "benchmark": "eval.jsonl",
        "benchmark_sha256": "b" * 64,
        "prompt_key": "problem",
        "answer_key": "answer",
        "instruction": "",
        "prompts_sha256": "c" * 64,
        "num_problems": 6,
        "samples_per_problem": 1,
        "temperature": 0.6,
        "top_p": 1.0,
        "max_new_tokens": 20,
        "stop_token_ids": (2,),
        "seed": 12345,
        "grading": {"timeout_s": 5.0},
        "environment": None,
    }
    return Protocol(**(fields | changes))


def make_point(subject: Subject, protocol: Protocol, accuracy: float | None = 0.9, length: float = 100.0) -> Point:
    """A plausible point, changed as asked."""
    return Point(
        label=subject.label,
        ordinal=subject.ordinal,
        step=subject.step,
        weights=subject.weights,
        protocol=protocol.key,
        temperature=protocol.temperature,
        accuracy=accuracy,
        accuracy_ci=(0.8, 0.95),
        mean_length=length,
        mean_length_ci=(length - 3, length + 3),
        n=256,
        num_ungraded=0,
        num_truncated=0,
        well_formed=1.0,
    )
