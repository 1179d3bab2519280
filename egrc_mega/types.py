"""The records that travel between the parts of a run: frozen dataclasses of plain values and arrays, no torch, no I/O.

Lengths: |y| is `len(output_ids)`, the stop token included. Every per-token array of a completion has that length.
Records that hold arrays are compared by identity (`eq=False`): `==` of arrays has no one answer.

Shape suffixes of the descriptions: P tokens of a prompt, F forced tokens, O tokens of an output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


def token_array(ids: Sequence[int] | NDArray[np.int32] = ()) -> NDArray[np.int32]:
    """[P] or [O] Token ids as the records hold them."""
    return np.asarray(ids, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """One row of the data set after the chat template.

    Example: `Prompt(id="train.jsonl:7", text="9 a + 1 = ?", token_ids=token_array([1, 12, ...]), answer="0")`
    """

    id: str
    """Where it came from: file name and line."""
    text: str
    """The user message as written in the data set."""
    token_ids: NDArray[np.int32]
    """[P] The rendered chat template, ending with the generation prompt."""
    answer: str
    """The gold answer, as given to the grader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample one completion."""

    temperature: float
    top_p: float
    max_new_tokens: int
    """Cap on |y|, over all segments: forced tokens and those of an environment count."""
    stop_token_ids: tuple[int, ...]
    """End of the answer; the matched one is part of the output."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RolloutRequest:
    """One sample to draw. It knows tokens only: what they mean is the business of whoever asks."""

    rid: str
    """Unique in the run; no rid is a prefix of another (SGLang aborts by prefix)."""
    prompt_id: str
    """Requests that share it go to the same server, and share what that has cached of the prompt."""
    prompt_ids: NDArray[np.int32]
    """[P] What the response follows."""
    forced_ids: NDArray[np.int32] = field(default_factory=token_array)
    """[F] The first tokens of the response, which the method forces: sent after the prompt, stand first in
    `output_ids`, `sampled` False, log-prob 0, never blamed on a server."""
    sampling: Sampling
    seed: int


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Output tokens [start, end) were sampled from the weights called `version`."""

    version: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """What the method forced, the servers sampled and an environment wrote after one prompt, in that order.

    Example: of `forced_ids` [9], a server's answer [5, 2] and no environment
    `Completion(rid="r1", output_ids=[9, 5, 2], logprobs=[0.0, -0.5, -0.1], sampled=[False, True, True],
    finish_reason=FinishReason.STOP, weight_versions=(VersionSpan(version="v3", start=1, end=3),))`
    """

    rid: str
    output_ids: NDArray[np.int32]
    """[O]"""
    logprobs: NDArray[np.float32]
    """[O] log softmax(logits / temperature) of each sampled token; 0.0 where `sampled` is False."""
    sampled: NDArray[np.bool_]
    """[O] True where the policy sampled the token, False where an environment wrote it or the method forced it."""
    finish_reason: FinishReason
    weight_versions: tuple[VersionSpan, ...]
    """In order and without gaps from the first sampled token to the end. What an environment wrote is in the span
    before it; forced tokens are in none."""

    @property
    def truncated(self) -> bool:
        """True when the cap ended it."""
        return self.finish_reason is FinishReason.LENGTH


class Grade(StrEnum):
    """The grader's verdict. UNGRADED is no verdict: it never counts as a reward of zero."""

    RIGHT = "right"
    WRONG = "wrong"
    UNGRADED = "ungraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A graded completion."""

    prompt: Prompt
    completion: Completion
    text: str
    """The decoded output."""
    grade: Grade
    well_formed: bool
    """Exactly one `</think>`, a balanced box after it, ended by a stop token (methods: the format gate)."""

    @property
    def length(self) -> int:
        """|y|: output tokens, stop token included."""
        return len(self.completion.output_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All samples of one prompt in one step."""

    prompt: Prompt
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainSample:
    """What the policy trains on: one sequence, and what each of its O output tokens teaches.

    All arrays have one axis. They may be views of a whole batch's arrays (`training.batch.decode`): never write to one.
    """

    prompt_ids: NDArray[np.int32]
    """[P]"""
    output_ids: NDArray[np.int32]
    """[O]"""
    sampled: NDArray[np.bool_]
    """[O] True where the policy sampled the token; False where an environment wrote it or the method forced it."""
    loss_weights: NDArray[np.float32]
    """[O] Weight of each token in the loss; 0 where it is not trained."""
    advantages: NDArray[np.float32]
    """[O] One per token; a sample that is only scored has zeros."""
    rollout_logprobs: NDArray[np.float32]
    """[O] From the server, under whatever weights it had; NaN where the token was not sampled."""
    compared: NDArray[np.bool_]
    """[O] True where the token was sampled from the very weights that are trained: server and trainer must agree."""
    old_logprobs: NDArray[np.float32] | None = None
    """[O] Old log-probs of the ratio that the method states itself, such as the probability with which a forced token
    counts as drawn; NaN where the trainer's own count, and None where they count everywhere."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole sequence."""
        return len(self.prompt_ids) + len(self.output_ids)
