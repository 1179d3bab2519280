"""What an evaluation is: weights, known by their content, measured by a protocol, known by all that moves a number."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

SHOWN_DIGITS = 12
"""Of a hash, where people read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Weights to measure, and their place in the table."""

    label: str
    """`base`, the label of the stage that has just ended, or the model folder that `egrc eval` was given."""
    ordinal: int
    """0 for the base, then the number of stages that have ended: a label may stand twice in a run."""
    step: int | None
    """Training steps that the weights have seen; None where nobody knows."""
    weights: str
    """Hash of the weights' content: see `fingerprint`."""
    within: bool = False
    """Measured while the stage of that label goes on; False: before it began or after it ended."""

    def __str__(self) -> str:
        seen = "" if self.step is None else f" (step {self.step})"
        return f"{self.label}{seen}, weights {self.weights[:SHOWN_DIGITS]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """All that decides about the numbers besides the weights. Equal protocols make rows comparable."""

    benchmark: str
    """Name of the file with the problems."""
    benchmark_sha256: str
    """Of the file's content."""
    prompt_key: str
    answer_key: str
    instruction: str
    prompts_sha256: str
    """Of the rendered prompts' token ids and the gold answers: the tokenizer and its chat template are in it."""
    num_problems: int
    samples_per_problem: int
    temperature: float
    top_p: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    seed: int
    grading: Mapping[str, Any]
    """The grading section's values that can move a verdict."""
    environment: Mapping[str, Any] | None
    """Who else writes tokens; None: the policy writes all."""

    @property
    def key(self) -> str:
        """SHA-256 of all fields, by which points of one protocol are known."""
        return hashlib.sha256(orjson.dumps(self, option=orjson.OPT_SORT_KEYS)).hexdigest()

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "Protocol":
        """The record that `orjson.dumps` wrote as this object."""
        return cls(**fields | {"stop_token_ids": tuple(fields["stop_token_ids"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row of the table: a subject's figures under one protocol."""

    label: str
    ordinal: int
    step: int | None
    weights: str
    protocol: str
    """SHA-256 of all fields, by which points of one protocol are known."""
    temperature: float
    accuracy: float | None
    """Over the graded responses; None when there is none."""
    accuracy_ci: tuple[float, float]
    mean_length: float
    """Output tokens, the stop token included; a response cut by the cap counts at its full length."""
    mean_length_ci: tuple[float, float]
    n: int
    """Responses."""
    num_ungraded: int
    num_truncated: int
    well_formed: float
    """Share of the responses."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """How many verdicts each reason decided; empty in files of earlier versions."""
    l_acc: float | None = None
    """Against the base measured by the same protocol; None without one."""
    set: str = ""
    """Name of the benchmark among `evaluation.sets`; empty: `evaluation.data`."""
    within: bool = False
    """Measured while the stage of that label went on, by `evaluation.every`."""
    samples_per_problem: int = 1
    pass_at: Mapping[str, float] = field(default_factory=dict)
    """pass@k by k, for the k that so many samples a problem allow."""

    @property
    def place(self) -> tuple[str, int, int | None, str, str]:
        """A point of the same place stands instead of this one."""
        return self.label, self.ordinal, self.step, self.set, self.protocol

    @classmethod
    def of_json(cls, fields: dict[str, Any]) -> "Point":
        """The record that `orjson.dumps` wrote as this object."""
        intervals = {name: tuple(fields[name]) for name in ("accuracy_ci", "mean_length_ci")}
        return cls(**fields | intervals)

    def line(self) -> str:
        """The row in words."""
        accuracy = "-" if self.accuracy is None else f"{100 * self.accuracy:.1f}%"
        seen = f", step {self.step}," if self.within else ""
        on = f" on {self.set}" if self.set else ""
        return (
            f"evaluation of {self.label}{seen}{on} at T {self.temperature:g}: accuracy {accuracy} "
            f"({self.num_ungraded} of {self.n} ungraded), mean length {self.mean_length:.1f} on {self.n} responses"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response of a measurement, kept to be looked at."""

    weights: str
    protocol: str
    """With the weights' hash it names the measurement."""
    problem: str
    gold: str
    text: str
    grade: str
    length: int
    truncated: bool
    reason: str = ""
    """Why it was graded so; empty in files of earlier versions."""
