"""The records that travel between the parts of a run: frozen dataclasses of plain values and arrays, no torch, no I/O.

Lengths: |y| is `len(output_ids)`, the stop token included. Every per-token array of a completion has that length.
Records that hold arrays are compared by identity (`eq=False`): `==` of arrays has no one answer.

Shape suffixes of the descriptions: P tokens of a prompt, F forced tokens, O tokens of an output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from egrc_mega.errors import DataError
from egrc_mega.sampling_mask import SamplingMask

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


def token_array(ids: Sequence[int] | IntArray = ()) -> IntArray:
    """Token ids as the records hold them: a one-dimensional int32 array."""
    return np.asarray(ids, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What the data set says about a gold answer beside its text. Plain values: it travels to the graders as JSON."""

    profile: str = "default"
    """Which row of `grading.profiles` judges: the conventions of the set that the problem is from."""
    answer_type: str | None = None
    """Forces the gold's type, one of `grading.gold.AnswerType`; None: its text decides."""
    unit: str | None = None
    """The unit that stands in a column of its own (OlympiadBench); an answer may have it or leave it out."""
    error: str | None = None
    """Absolute tolerance that the set states (OlympiadBench), as a decimal numeral."""
    multiple: bool = False
    """The text holds several answers, all of which are wanted (OlympiadBench's `is_multiple_answer`)."""


NO_HINTS = Hints()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row of a data set, before it is rendered.

    Example: `Problem(key="train.jsonl:7", text="9 a + 1 = ?", answer="0")`
    """

    key: str
    """Where it came from, file name and line: the same in every epoch, so that state may be kept by it."""
    text: str
    """The user message as written in the data set."""
    system: str | None = None
    """The system message, where the data set has chats; a method's own stands instead."""
    answer: str
    """The gold answer, as given to the grader."""
    hints: Hints = NO_HINTS
    """How the gold is to be understood."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numeric columns of the row that `data.facts` names, e.g. the base model's accuracy."""

    def fact(self, name: str) -> float:
        """One of the facts.

        Raises:
            DataError: the row was read without it.
        """
        if name not in self.facts:
            raise DataError(f"data.facts: {sorted(self.facts)} lacks {name!r}, which the method needs; add the column")
        return self.facts[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a method asks of one sample, in words: tokens, ids, seeds and temperature are not the method's business."""

    system: str | None = None
    """System message before the problem; None: none."""
    suffix: str = ""
    """Text right after the problem and the instruction."""
    opening: str = ""
    """Text after the generation prompt: a part of the prompt, never trained."""
    forced: str = ""
    """Begin of the response; trained only where the credit states a `forced_logprob`."""
    max_new_tokens: int | None = None
    """Cap on |y|, forced tokens included; None: the stage's."""
    tag: str = ""
    """A name for this kind of sample (a mode), which rewards and metrics may ask for."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the plan that the reward needs again, e.g. the length budget the prompt states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample one completion."""

    temperature: float
    top_p: float
    top_k: int | None = None
    """At most so many tokens are drawn from; the completion then has a `sampling_mask`. None: no bound, and no mask."""
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
    prompt_ids: IntArray
    """int32[P]: what the response follows."""
    forced_ids: IntArray = field(default_factory=token_array)
    """int32[F]: the first tokens of the response, which the method forces: sent after the prompt, stand first in
    `output_ids`, `sampled` False, log-prob 0, never blamed on a server."""
    sampling: Sampling
    seed: int


class FinishReason(StrEnum):
    """Why a response's generation ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """Output tokens [start, end) were sampled from the weights called `version`."""

    version: str
    start: int
    end: int
    pure: bool = True
    """All that these tokens look back at was computed by the same weights. Only then has the trainer, which computes a
    response at once, the same log-probs. False where a server has gone on with a cache that older weights have made."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Completion:
    """What the method forced, the servers sampled and an environment wrote after one prompt, in that order.

    Example: of `forced_ids` [9], a server's answer [5, 2] and no environment
    `Completion(rid="r1", output_ids=[9, 5, 2], logprobs=[0.0, -0.5, -0.1], sampled=[False, True, True],
    finish_reason=FinishReason.STOP, weight_versions=(VersionSpan(version="v3", start=1, end=3),))`
    """

    rid: str
    output_ids: IntArray
    """int32[O]."""
    logprobs: FloatArray
    """float32[O]: log softmax(logits / temperature) of each sampled token, over its sampling mask where there is one;
    0.0 where `sampled` is False."""
    sampled: BoolArray
    """bool[O]: True where the policy sampled the token, False where an environment wrote it or the method forced it."""
    sampling_mask: SamplingMask | None = None
    """What each token was drawn from; None: the whole vocabulary, or nobody has asked."""
    finish_reason: FinishReason
    weight_versions: tuple[VersionSpan, ...]
    """In order and without gaps from the first sampled token to the end. What an environment wrote is in the span
    before it; forced tokens are in none."""

    @property
    def truncated(self) -> bool:
        """True when the cap ended it."""
        return self.finish_reason is FinishReason.LENGTH


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """A completion that nobody has judged yet, the problem it answers and what the method asked for."""

    problem: Problem
    ask: Ask
    request: RolloutRequest
    completion: Completion


class Grade(StrEnum):
    """The grader's verdict. UNGRADED is no verdict: it never counts as a reward of zero."""

    RIGHT = "right"
    WRONG = "wrong"
    UNGRADED = "ungraded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A grade and why it was given."""

    grade: Grade
    reason: str
    """In a few words, the same for all answers that the same rule decides (`grading.verdicts.Reason`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A completion with its text and its verdict."""

    problem: Problem
    ask: Ask
    """What the method asked for."""
    prompt_ids: IntArray
    """int32[P]: the rendered prompt, the opening included."""
    completion: Completion
    text: str
    """The decoded output."""
    grade: Grade
    reason: str = ""
    """Why the grader gave that grade."""
    well_formed: bool
    """Exactly one `</think>`, a balanced box after it, ended by a stop token (methods: the format gate)."""
    num_forced: int = 0
    """Tokens at the begin of the output that the method forced."""
    think_length: int | None = None
    """Output tokens up to the last `</think>`, that one included; None: there is none."""
    token_ends: IntArray | None = None
    """int32[O]: where in `text` each output token ends; None unless the method needs it."""
    entropies: FloatArray | None = None
    """float32[O]: the trainer's token entropies at temperature 1 (nats); None unless the method needs them."""
    reference_logprobs: FloatArray | None = None
    """float32[O]: of the model that the run began with; None unless the method needs them."""
    reference_kl: FloatArray | None = None
    """float32[O]: log pi - log ref, pi the trainer's policy and ref the model that the run began with; 0 for tokens
    that the policy did not sample. None unless the method needs it."""

    @property
    def length(self) -> int:
        """|y|: output tokens, stop token included."""
        return len(self.completion.output_ids)

    @property
    def answer_length(self) -> int:
        """Output tokens after the last `</think>`; all of them where there is none."""
        return self.length - (self.think_length or 0)

    @property
    def right(self) -> bool:
        """Right and finished: an answer inside a truncated response does not count (methods: the format gate)."""
        return self.grade is Grade.RIGHT and not self.completion.truncated


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """All samples of one problem in one step."""

    problem: Problem
    samples: tuple[Sample, ...]

    @property
    def accuracy(self) -> float:
        """Share of the graded samples that are right; 0.0 when none was graded."""
        graded = [sample for sample in self.samples if sample.grade is not Grade.UNGRADED]
        return sum(sample.right for sample in graded) / len(graded) if graded else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainSample:
    """What the policy trains on: one sequence, and what each of its O output tokens teaches.

    All arrays have one axis. They may be views of a whole batch's arrays (`training.batch.decode`): never write to one.
    """

    prompt_ids: IntArray
    """[P]"""
    output_ids: IntArray
    """[O]"""
    sampled: BoolArray
    """[O] True where the policy sampled the token; False where an environment wrote it or the method forced it."""
    loss_weights: FloatArray
    """[O] Weight of each token in the loss; 0 where it is not trained."""
    advantages: FloatArray
    """[O] One per token; a sample that is only scored has zeros."""
    rollout_logprobs: FloatArray
    """[O] From the server, under whatever weights it had; NaN where the token was not sampled."""
    compared: BoolArray
    """[O] True where the token was sampled from the very weights that are trained: server and trainer must agree."""
    old_logprobs: FloatArray | None = None
    """[O] Old log-probs of the ratio that the method states itself, such as the probability with which a forced token
    counts as drawn; NaN where the trainer's own count, and None where they count everywhere."""
    sampling_mask: SamplingMask | None = None
    """What each of the O tokens was drawn from: its log-prob is one among those. None: the whole vocabulary."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole sequence."""
        return len(self.prompt_ids) + len(self.output_ids)
