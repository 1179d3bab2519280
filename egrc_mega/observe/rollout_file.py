"""The file of one step's rollouts: plain arrays, each over all samples laid end to end, and an index in JSON.

    output_ids int32[T]   sampled bool[T]   logprobs float32[T]      T: output tokens of the step
    entropies float32[E]                                             E: tokens of the samples that have them
    token_ends int32[N]   reference_kl float32[K]                    N, K: likewise
    prompt_ids int32[P]                                              P: tokens of the samples' prompts
    mask_counts int32[C]  mask_ids int32[M]                          C, M: tokens and ids of the sampling masks, if any
    advantages float32[A]                                            A: of the samples with one for each token
    texts uint8[B]        index uint8[J]                             UTF-8

The index has the numbers of each sample and the sizes of its parts, and what the method was told beside: the step
within its stage, its state, and facts of problems and asks. So `egrc credit` pays for a file what the run has paid, and
`egrc train --replay-rollouts` trains on it. Of a 7B explore step, 2,048 responses of 3,000 tokens, a file has 100 MB;
it is not compressed, for token ids and log-probs hardly shrink. In files of earlier versions entropies are float16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from egrc_mega.types import VersionSpan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredSample:
    """One response. O: its output tokens."""

    text: str
    output_ids: NDArray[np.int32]
    """[O]"""
    sampled: NDArray[np.bool_]
    """[O] True where the policy sampled the token."""
    logprobs: NDArray[np.float32]
    """[O] The servers'; 0.0 where `sampled` is False."""
    entropies: NDArray[np.floating[Any]] | None
    """[O] The trainer's, in nats at temperature 1; None where nobody has computed them."""
    grade: str
    well_formed: bool
    truncated: bool
    reward: float | None
    """None where the sample was not judged."""
    terms: Mapping[str, float]
    """Named parts of the reward."""
    advantage: float | NDArray[np.float32]
    """One for the response, or [O] one for each token."""
    kept: bool
    """False: the sample was scored and not trained on."""
    versions: tuple[VersionSpan, ...]
    """Which weights sampled which tokens."""
    tag: str = ""
    """The method's name for this kind of sample, for instance a mode."""
    reason: str = ""
    """Why it was graded so. This and what follows is empty in files of earlier versions."""
    think_length: int | None = None
    """Output tokens up to the last `</think>`, that one included; None: there is none."""
    max_new_tokens: int | None = None
    """The cap that the method asked for; None: the stage's."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the method's plan, e.g. the budget that the prompt states."""
    token_ends: NDArray[np.int32] | None = None
    """[O] Where in `text` each token ends; None where the method did not look at it."""
    reference_kl: NDArray[np.float32] | None = None
    """[O] log pi - log ref of each sampled token; None where the method did not look at it."""
    prompt_ids: NDArray[np.int32] | None = None
    """[P] The rendered prompt; None in files of earlier versions."""
    mask_counts: NDArray[np.int32] | None = None
    """[O] Of how many vocabulary ids each token was drawn, 0 for all; None where top-k cut none of them."""
    mask_ids: NDArray[np.int32] | None = None
    """[M] These ids, end to end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredGroup:
    """All responses to one prompt."""

    key: str
    """The problem's file and line."""
    prompt: str
    answer: str
    samples: tuple[StoredSample, ...]
    facts: Mapping[str, float] = field(default_factory=dict)
    """Of the problem (`data.facts`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredStep:
    """One step's groups, in the order of the batch."""

    step: int
    stage: str
    """The stage's label."""
    groups: tuple[StoredGroup, ...]
    step_in_stage: int | None = None
    """Counted from 0; None in files of earlier versions, as the state is."""
    state: Mapping[str, Any] | None = None
    """The method's, with which it gave the step's credits."""
    collected: Mapping[str, Any] | None = None
    """How the step was sampled, for a replay; None in files of earlier versions."""


SCALARS = ("grade", "well_formed", "truncated", "reward", "kept", "tag")
SCALARS_SINCE = {"reason": "", "think_length": None, "max_new_tokens": None}
"""Scalars that files of earlier versions lack, with what stands for them."""
MEASURED = {"entropies": np.float32, "token_ends": np.int32, "reference_kl": np.float32, "mask_counts": np.int32}
"""Arrays that a sample may have, one number a token."""


def arrays_of(stored: StoredStep) -> dict[str, NDArray[Any]]:
    """The arrays of a file."""
    samples = [sample for group in stored.groups for sample in group.samples]
    texts = [sample.text.encode("utf-8", "surrogatepass") for sample in samples]
    advantages = [sample.advantage for sample in samples if not _is_scalar(sample.advantage)]
    sizes = iter(map(len, texts))
    index = {
        "step": stored.step,
        "stage": stored.stage,
        "step_in_stage": stored.step_in_stage,
        "state": stored.state,
        "collected": stored.collected,
        "groups": [
            {
                "key": group.key,
                "prompt": group.prompt,
                "answer": group.answer,
                "facts": dict(group.facts),
                "samples": [_entry(sample, next(sizes)) for sample in group.samples],
            }
            for group in stored.groups
        ],
    }
    return {
        "output_ids": _joined([sample.output_ids for sample in samples], np.int32),
        "sampled": _joined([sample.sampled for sample in samples], np.bool_),
        "logprobs": _joined([sample.logprobs for sample in samples], np.float32),
        "advantages": _joined(advantages, np.float32),
        "prompt_ids": _joined([s.prompt_ids for s in samples if s.prompt_ids is not None], np.int32),
        "mask_ids": _joined([s.mask_ids for s in samples if s.mask_ids is not None], np.int32),
        "texts": np.frombuffer(b"".join(texts), np.uint8),
        "index": np.frombuffer(orjson.dumps(index, option=orjson.OPT_SERIALIZE_NUMPY), np.uint8),
    } | {
        name: _joined([own for sample in samples if (own := getattr(sample, name)) is not None], dtype)
        for name, dtype in MEASURED.items()
    }


def _entry(sample: StoredSample, text_bytes: int) -> dict[str, Any]:
    """A sample in the index."""
    return {name: getattr(sample, name) for name in (*SCALARS, *SCALARS_SINCE)} | {
        "facts": dict(sample.facts),
        "num_tokens": len(sample.output_ids),
        "text_bytes": text_bytes,
        "num_prompt_tokens": None if sample.prompt_ids is None else len(sample.prompt_ids),
        "num_mask_ids": None if sample.mask_ids is None else len(sample.mask_ids),
        **{f"has_{name}": getattr(sample, name) is not None for name in MEASURED},
        "advantage": float(sample.advantage) if _is_scalar(sample.advantage) else None,
        # null where there is one for the whole response; a response that was edited has as many as the edited one
        "num_advantages": None if _is_scalar(sample.advantage) else len(np.asarray(sample.advantage)),
        "terms": dict(sample.terms),
        "versions": [[s.version, s.start, s.end, *([] if s.pure else [False])] for s in sample.versions],
    }


class StepReader:
    """What `arrays_of` laid out as these arrays, group by group; where each sample's parts are is worked out once."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        """`arrays`: what gives a part of a field by its bounds: arrays, or a file that is read where it is asked."""
        self.arrays = arrays
        self.index: dict[str, Any] = orjson.loads(arrays["index"][:].tobytes())
        """`step`, `stage`, and `groups`, each with `key`, `prompt`, `answer` and the numbers of its `samples`."""
        entries = [entry for group in self.index["groups"] for entry in group["samples"]]
        self._entries = entries
        self._places = _slices([len(group["samples"]) for group in self.index["groups"]])
        self._tokens = _slices([entry["num_tokens"] for entry in entries])
        self._advantages = _slices([entry["num_advantages"] or 0 for entry in entries])
        self._texts = _slices([entry["text_bytes"] for entry in entries])
        self._prompts = _known_slices([entry.get("num_prompt_tokens") for entry in entries])
        self._masks = _known_slices([entry.get("num_mask_ids") for entry in entries])
        self._measured = {name: _measured(entries, name) for name in MEASURED}

    def group(self, number: int) -> StoredGroup:
        """A group with its samples, counted from 0."""
        group, places = self.index["groups"][number], self._places[number]
        return StoredGroup(
            key=group["key"],
            prompt=group["prompt"],
            answer=group["answer"],
            facts=group.get("facts", {}),
            samples=tuple(map(self._sample, range(places.start, places.stop))),
        )

    def _sample(self, i: int) -> StoredSample:
        arrays, entry, tokens = self.arrays, self._entries[i], self._tokens[i]
        one_for_all = entry["num_advantages"] is None
        return StoredSample(
            **{name: entry[name] for name in SCALARS},
            **{name: entry.get(name, instead) for name, instead in SCALARS_SINCE.items()},
            **{name: _part(arrays, name, parts[i]) for name, parts in self._measured.items()},
            text=arrays["texts"][self._texts[i]].tobytes().decode("utf-8", "surrogatepass"),
            output_ids=arrays["output_ids"][tokens],
            sampled=arrays["sampled"][tokens],
            logprobs=arrays["logprobs"][tokens],
            advantage=entry["advantage"] if one_for_all else arrays["advantages"][self._advantages[i]],
            prompt_ids=_part(arrays, "prompt_ids", self._prompts[i]),
            mask_ids=_part(arrays, "mask_ids", self._masks[i]),
            terms=entry["terms"],
            facts=entry.get("facts", {}),
            versions=tuple(_span(*span) for span in entry["versions"]),
        )


def _span(version: str, start: int, end: int, pure: bool = True) -> VersionSpan:
    """As it stands in the index, where only what is not pure says so."""
    return VersionSpan(version=version, start=start, end=end, pure=pure)


def step_of(arrays: Mapping[str, Any]) -> StoredStep:
    """The step that `arrays_of` laid out as these arrays."""
    reader = StepReader(arrays)
    index = reader.index
    return StoredStep(
        step=index["step"],
        stage=index["stage"],
        groups=tuple(map(reader.group, range(len(index["groups"])))),
        step_in_stage=index.get("step_in_stage"),
        state=index.get("state"),
        collected=index.get("collected"),
    )


def _measured(entries: Sequence[Mapping[str, Any]], name: str) -> list[slice | None]:
    """Where each sample's part is of one of the arrays that not every sample has."""
    return _known_slices([entry["num_tokens"] if entry.get(f"has_{name}") else None for entry in entries])


def _known_slices(sizes: Sequence[int | None]) -> list[slice | None]:
    """The parts of an array in which those without a size have none."""
    parts = _slices([size or 0 for size in sizes])
    return [None if size is None else part for size, part in zip(sizes, parts, strict=True)]


def _part(arrays: Mapping[str, Any], name: str, place: slice | None) -> Any:
    """A sample's part of an array; None where it has none: files of earlier versions lack whole arrays."""
    return None if place is None else arrays[name][place]


def _joined(parts: Sequence[Any], dtype: Any) -> NDArray[Any]:
    """The parts laid end to end; an empty array for none."""
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.empty(0, dtype)


def _is_scalar(advantage: float | NDArray[np.float32]) -> bool:
    return np.ndim(advantage) == 0


def _slices(sizes: Sequence[int]) -> list[slice]:
    """The parts of an array whose parts have these sizes."""
    return [slice(*bounds) for bounds in pairwise(np.cumsum([0, *sizes]).tolist())]
