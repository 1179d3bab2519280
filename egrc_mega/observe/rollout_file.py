"""The file of one step's rollouts: plain arrays, each over all samples laid end to end, and an index in JSON.

    output_ids int32[T]   sampled bool[T]   logprobs float32[T]      T: output tokens of the step
    entropies float16[E]                                             E: tokens of the samples that have them
    advantages float32[A]                                            A: of the samples with one for each token
    texts uint8[B]        index uint8[J]                             UTF-8

The index has the numbers of each sample and the sizes of its parts. Of a 7B explore step, 2,048 responses of 3,000
tokens, a file has 100 MB; it is not compressed, for token ids and log-probs hardly shrink.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """[O] The trainer's, in nats at temperature 1, kept to three digits; None where nobody has computed them."""
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
    """Why it was graded so; empty in files of earlier versions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredGroup:
    """All responses to one prompt."""

    key: str
    """The problem's file and line."""
    prompt: str
    answer: str
    samples: tuple[StoredSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredStep:
    """One step's groups, in the order of the batch."""

    step: int
    stage: str
    """The stage's label."""
    groups: tuple[StoredGroup, ...]


SCALARS = ("grade", "well_formed", "truncated", "reward", "kept", "tag")


def arrays_of(stored: StoredStep) -> dict[str, NDArray[Any]]:
    """The arrays of a file."""
    samples = [sample for group in stored.groups for sample in group.samples]
    texts = [sample.text.encode("utf-8", "surrogatepass") for sample in samples]
    entropies = [sample.entropies for sample in samples if sample.entropies is not None]
    advantages = [sample.advantage for sample in samples if not _is_scalar(sample.advantage)]
    sizes = iter(map(len, texts))
    index = {
        "step": stored.step,
        "stage": stored.stage,
        "groups": [
            {
                "key": group.key,
                "prompt": group.prompt,
                "answer": group.answer,
                "samples": [_entry(sample, next(sizes)) for sample in group.samples],
            }
            for group in stored.groups
        ],
    }
    return {
        "output_ids": _joined([sample.output_ids for sample in samples], np.int32),
        "sampled": _joined([sample.sampled for sample in samples], np.bool_),
        "logprobs": _joined([sample.logprobs for sample in samples], np.float32),
        "entropies": _joined(entropies, np.float16),
        "advantages": _joined(advantages, np.float32),
        "texts": np.frombuffer(b"".join(texts), np.uint8),
        "index": np.frombuffer(orjson.dumps(index, option=orjson.OPT_SERIALIZE_NUMPY), np.uint8),
    }


def _entry(sample: StoredSample, text_bytes: int) -> dict[str, Any]:
    """A sample in the index."""
    return {name: getattr(sample, name) for name in SCALARS} | {
        "reason": str(sample.reason),
        "num_tokens": len(sample.output_ids),
        "text_bytes": text_bytes,
        "has_entropies": sample.entropies is not None,
        "advantage": float(sample.advantage) if _is_scalar(sample.advantage) else None,
        # null where there is one for the whole response; a response that was edited has as many as the edited one
        "num_advantages": None if _is_scalar(sample.advantage) else len(np.asarray(sample.advantage)),
        "terms": dict(sample.terms),
        "versions": [[span.version, span.start, span.end] for span in sample.versions],
    }


def step_of(arrays: Mapping[str, NDArray[Any]]) -> StoredStep:
    """The step that `arrays_of` laid out as these arrays."""
    index = orjson.loads(arrays["index"].tobytes())
    entries = [entry for group in index["groups"] for entry in group["samples"]]
    tokens = _slices([entry["num_tokens"] for entry in entries])
    entropies = _slices([entry["num_tokens"] * entry["has_entropies"] for entry in entries])
    advantages = _slices([entry["num_advantages"] or 0 for entry in entries])
    texts = _slices([entry["text_bytes"] for entry in entries])
    samples = iter(
        StoredSample(
            **{name: entry[name] for name in SCALARS},
            reason=entry.get("reason", ""),
            text=arrays["texts"][text].tobytes().decode("utf-8", "surrogatepass"),
            output_ids=arrays["output_ids"][own],
            sampled=arrays["sampled"][own],
            logprobs=arrays["logprobs"][own],
            entropies=arrays["entropies"][entropy] if entry["has_entropies"] else None,
            advantage=entry["advantage"] if entry["num_advantages"] is None else arrays["advantages"][advantage],
            terms=entry["terms"],
            versions=tuple(VersionSpan(version=v, start=start, end=end) for v, start, end in entry["versions"]),
        )
        for entry, own, entropy, advantage, text in zip(entries, tokens, entropies, advantages, texts, strict=True)
    )
    groups = tuple(
        StoredGroup(
            key=group["key"],
            prompt=group["prompt"],
            answer=group["answer"],
            samples=tuple(next(samples) for _ in group["samples"]),
        )
        for group in index["groups"]
    )
    return StoredStep(step=index["step"], stage=index["stage"], groups=groups)


def _joined(parts: Sequence[Any], dtype: Any) -> NDArray[Any]:
    """The parts laid end to end; an empty array for none."""
    return np.concatenate([np.asarray(part, dtype) for part in parts]) if parts else np.empty(0, dtype)


def _is_scalar(advantage: float | NDArray[np.float32]) -> bool:
    return np.ndim(advantage) == 0


def _slices(sizes: Sequence[int]) -> list[slice]:
    """The parts of an array whose parts have these sizes."""
    return [slice(*bounds) for bounds in pairwise(np.cumsum([0, *sizes]).tolist())]
