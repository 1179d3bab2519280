"""What the host does between the servers' replies and the first kernel of a step, against the ways of doing it before.

The batch is an explore step of R1-Distill-Qwen-7B: 2,048 responses of 6.4 million tokens, log-normal with a cap of
8192, in groups of eight. Measured are reading and validating the replies (`host_path_replies.py`), building the batch,
encoding it, decoding it on a rank, and packing the eighth that one of eight data-parallel ranks trains on. The way
before had a Python object for every token. Each way runs in a process of its own, so that its peak memory is its own.
`holds` says whether the promised bounds hold.

Usage: python benchmarks/host_path.py [--responses 2048] [--rounds 3]
"""

import argparse
import json
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.presets import PRESETS
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import NoState, build_method
from egrc_mega.methods.records import View
from egrc_mega.policy import distributed  # noqa: F401  it bends megatron to the CPU where there is no CUDA
from egrc_mega.policy.balance import plan_loads
from egrc_mega.policy.flops import FlopModel
from egrc_mega.policy.packing import Baselines, build_micro_batch
from egrc_mega.training.batch import build_batch, decode, encode
from egrc_mega.types import Ask, Completion, FinishReason, Grade, Group, Problem, Sample, VersionSpan

GROUP, PROMPT_TOKENS, CAP, BUDGET, RANKS = 8, 200, 8192, 16384, 8
TOKENS = 6_400_000
"""Of 2,048 responses."""
MEAN, SIGMA = 3390.0, 0.75
"""Of the log-normal before the cap: with it 2,048 responses have 6.4 million tokens."""
MAX_SECONDS, MAX_GIB = 1.0, 1.5
STAGE = ExploreSection()
VIEW = View(step=0, state=NoState(), seed=1)
FLOPS = FlopModel.of(architecture_of(HfConfig(dict(PRESETS["deepseek-r1-distill-qwen-7b"]))))


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    before, now = (_in_own_process(way, arguments.responses, arguments.rounds) for way in (_before, _now))
    replies = _in_own_process(_replies, arguments.responses, arguments.rounds)
    result = {
        "responses": arguments.responses,
        "tokens": now.pop("tokens"),
        "replies": replies,
        "batch": now,
        "batch_before": before,
        "batch_ratio": before["seconds"] / now["seconds"],
        "holds": {
            "batch_within_a_second": now["seconds"] <= MAX_SECONDS,
            "batch_peak_within_1.5_gib": now["peak_gib"] <= MAX_GIB,
            **replies.pop("holds"),
        },
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    print(json.dumps(result, indent=1))


def _in_own_process(way: Callable[[int, int], dict[str, Any]], responses: int, rounds: int) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(way, (responses, rounds))


def _replies(responses: int, rounds: int) -> dict[str, Any]:
    """Reading and validating what the servers sent."""
    sys.path.insert(0, str(Path(__file__).parent))  # python -P leaves the script's folder out
    from host_path_replies import lengths_of, measure_replies

    return measure_replies(lengths_of(responses, TOKENS * responses // 2048, CAP), CAP, rounds)


def _now(responses: int, rounds: int) -> dict[str, Any]:
    """The product's functions on arrays."""
    groups = _groups(responses, np.asarray)
    method = build_method(STAGE)
    phases: list[tuple[str, Callable[[Any], Any]]] = [
        ("build", lambda _nothing: build_batch(groups, method.credit(groups, VIEW), STAGE, "v0")),
        ("encode", encode),
        ("decode", decode),
        ("pack", lambda batch: _pack([*batch.dropped, *batch.updates[0]], build_micro_batch)),
    ]
    return _timed(phases, rounds) | {"tokens": sum(s.length for group in groups for s in group.samples)}


def _timed(phases: list[tuple[str, Callable[[Any], Any]]], rounds: int) -> dict[str, Any]:
    """Each phase gets what the one before it returned; medians over the rounds, and this process's peak memory."""
    seconds: dict[str, list[float]] = {name: [] for name, _phase in phases}
    for _ in range(rounds):
        value = None
        for name, phase in phases:
            started = time.perf_counter()
            value = phase(value)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: median(values) for name, values in seconds.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": sum(medians.values()), "peak_gib": peak, "phases": medians}


def _pack(samples: Sequence[Any], build: Callable[..., Any]) -> None:
    """All micro-batches of the first of eight ranks, one at a time as a step takes them."""
    lengths = [sample.num_tokens for sample in samples]
    costs = [FLOPS.forward([s.num_tokens], len(s.output_ids)) for s in samples]
    for load in plan_loads(lengths, costs, BUDGET, RANKS)[0]:
        build(samples, load, Baselines(), torch.device("cpu"))


def _groups(responses: int, as_row: Callable[[Any], Any]) -> list[Group]:
    """Graded groups as the servers' replies leave them; `as_row` makes the container of the per-token values."""
    generator = np.random.default_rng(0)
    lengths = generator.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, responses).round().clip(1, CAP).astype(int)
    problem, prompt_ids = Problem(key="7b", text="", answer="0"), as_row(np.arange(PROMPT_TOKENS, dtype=np.int32))

    def sample(place: int) -> Sample:
        length = int(lengths[place])
        completion = Completion(
            rid=str(place),
            output_ids=as_row(generator.integers(152064, size=length, dtype=np.int32)),
            logprobs=as_row(-generator.random(length, np.float32)),
            sampled=as_row(generator.random(length) > 0.02),
            finish_reason=FinishReason.STOP if length < CAP else FinishReason.LENGTH,
            weight_versions=(VersionSpan(version="v0", start=0, end=length),),
        )
        grade = Grade.RIGHT if place % 3 else Grade.WRONG
        return Sample(
            problem=problem,
            ask=Ask(),
            prompt_ids=prompt_ids,
            completion=completion,
            text="",
            grade=grade,
            well_formed=bool(place % 5),
        )

    samples = [sample(place) for place in range(responses)]
    return [Group(problem=problem, samples=tuple(samples[i : i + GROUP])) for i in range(0, responses, GROUP)]


# The way before: tuples, a Python object for every token.


class TupleSample(NamedTuple):
    """The record as it was."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    mask: tuple[int, ...]
    loss_weights: tuple[float, ...]
    advantage: float
    rollout_logprobs: tuple[float, ...]
    compared: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole sequence."""
        return len(self.prompt_ids) + len(self.output_ids)


PER_TOKEN = {
    "output_ids": np.int32,
    "mask": np.int8,
    "loss_weights": np.float64,
    "rollout_logprobs": np.float64,
    "compared": np.int8,
}


def _before(responses: int, rounds: int) -> dict[str, Any]:
    groups = _groups(responses, lambda array: tuple(array.tolist()))
    phases: list[tuple[str, Callable[[Any], Any]]] = [
        ("build", lambda _nothing: _tuple_samples(groups)),
        ("encode", _encode_tuples),
        ("decode", _decode_tuples),
        ("pack", partial(_pack, build=_pack_tuples)),
    ]
    return _timed(phases, rounds)


def _tuple_samples(groups: list[Group]) -> list[TupleSample]:
    credits = build_method(STAGE).credit(groups, VIEW)
    rows = [
        (s, c.advantage)
        for group, row in zip(groups, credits, strict=True)
        for s, c in zip(group.samples, row, strict=True)
    ]
    weights = []
    for own, total in [(s.completion.sampled, sum(s.completion.sampled) * len(rows)) for s, _a in rows]:
        weights.append(tuple(bit / total for bit in own))
    samples = []
    for (sample, advantage), own_weights in zip(rows, weights, strict=True):
        done = sample.completion
        samples.append(
            TupleSample(
                sample.prompt_ids,
                done.output_ids,
                done.sampled,
                own_weights,
                advantage,
                tuple(p if m else float("nan") for p, m in zip(done.logprobs, done.sampled, strict=True)),
                tuple(m * c for m, c in zip(done.sampled, [1] * len(done.output_ids), strict=True)),
            )
        )
    return samples


def _encode_tuples(samples: list[TupleSample]) -> bytes:
    arrays = {
        "advantage": np.array([s.advantage for s in samples], np.float64),
        "prompt_length": np.array([len(s.prompt_ids) for s in samples], np.int64),
        "output_length": np.array([len(s.output_ids) for s in samples], np.int64),
        "prompt_ids": np.array([i for s in samples for i in s.prompt_ids], np.int32),
    }
    for name, dtype in PER_TOKEN.items():
        arrays[name] = np.array([value for s in samples for value in getattr(s, name)], dtype)
    return save(arrays)


def _decode_tuples(payload: bytes) -> list[TupleSample]:
    arrays = {name: array.tolist() for name, array in load_arrays(payload).items()}
    prompts, outputs = (
        [slice(*pair) for pair in pairwise(accumulate(arrays[name], initial=0))]
        for name in ("prompt_length", "output_length")
    )
    return [
        TupleSample(
            prompt_ids=tuple(arrays["prompt_ids"][prompt]),
            advantage=advantage,
            **{name: tuple(arrays[name][output]) for name in PER_TOKEN},
        )
        for prompt, output, advantage in zip(prompts, outputs, arrays["advantage"], strict=True)
    ]


def _pack_tuples(samples: list[TupleSample], load: Any, *_unused: Any) -> list[torch.Tensor]:
    own = [samples[index] for index in load.indices]
    ids = [i for s in own for i in (*s.prompt_ids, *s.output_ids)]
    positions = [i for s in own for i in range(s.num_tokens)]
    rows, first = [], 0
    for s in own:
        rows += range(first + len(s.prompt_ids) - 1, first + s.num_tokens - 1)
        first += s.num_tokens
    offsets = [0, *accumulate(len(s.output_ids) for s in samples)]
    flat = [i for index in load.indices for i in range(offsets[index], offsets[index + 1])]
    floats = [[s.advantage for s in own for _token in s.output_ids]]
    floats += [[value for s in own for value in getattr(s, name)] for name in ("loss_weights", "rollout_logprobs")]
    held = torch.tensor(list(range(len(ids))))
    ids_W, rows_W = torch.tensor(ids), torch.tensor(rows)
    tensors = [ids_W[held], torch.tensor(positions)[held], rows_W, ids_W[rows_W + 1], torch.tensor(flat)]
    return tensors + [torch.tensor(values, dtype=torch.float32) for values in floats]


if __name__ == "__main__":
    main()
