"""One training step of the policy against Hugging Face with torch.compile: time, operations, memory.

Ours is measured on responses of one length, on ragged ones (log-normal, other lengths in every round), and with
`policy.deterministic`, for its price; then its memory is freed, and the peer takes the responses of one length.

Random weights, one device, packed micro-batches of responses without prompts. On a GPU the default is
R1-Distill-Qwen-1.5B with 16384 tokens in a micro-batch; on a CPU a toy model runs, and says so.

Usage: python benchmarks/train_step.py [--preset NAME] [--tokens 16384] [--length 4096] [--rounds 5] [--peak-tflops 989]
"""

import argparse
import gc
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from egrc_mega.config.schema import LossSection, MegatronSection, PolicySection
from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.hf_folder import write_folder
from egrc_mega.convert.presets import PRESETS
from egrc_mega.policy import distributed
from egrc_mega.policy.determinism import make_deterministic
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.flops import FlopModel
from egrc_mega.policy.layer_spec import parts_in_use
from egrc_mega.types import TrainSample

TOY = PRESETS["deepseek-r1-distill-qwen-1.5b"] | {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4000,
    "torch_dtype": "float32",
}
LR = 1e-6
WARM_UP = 2
"""Rounds that compile and are not counted."""


def main() -> None:
    """Print one JSON object."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="deepseek-r1-distill-qwen-1.5b" if has_gpu else "toy")
    parser.add_argument("--tokens", type=int, default=16384 if has_gpu else 512)
    parser.add_argument("--length", type=int, default=4096 if has_gpu else 128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=None)
    arguments = parser.parse_args()
    fields = TOY if arguments.preset == "toy" else PRESETS[arguments.preset]
    even = [arguments.length] * (arguments.tokens // arguments.length)
    ragged = [_ragged_lengths(seed, arguments.tokens, arguments.length) for seed in range(arguments.rounds + WARM_UP)]
    batches = [_samples(lengths, fields["vocab_size"]) for lengths in (even, *ragged)]
    flops = FlopModel.of(architecture_of(HfConfig(dict(fields))))
    useful = [flops.training(lengths, sum(lengths) - len(lengths)) for lengths in (even, *ragged)]
    with tempfile.TemporaryDirectory() as name:
        folder = _write_random_model(Path(name) / "model", fields)
        ours, of_ragged, deterministic = _measure_ours(folder, batches, fields, arguments.rounds)
        gc.collect()
        peer = _measure_peer(folder, batches[0], arguments.rounds)
    peak = arguments.peak_tflops
    result: dict[str, Any] = {
        "preset": arguments.preset,
        "tokens": arguments.tokens,
        "length": arguments.length,
        "ours": _figures(ours, useful[0], peak),
        "ours_ragged": _figures(of_ragged, median(useful[1 + WARM_UP :]), peak),
        "deterministic_time_over_ours": deterministic["seconds"] / ours["seconds"],
        "hugging_face_compiled": _figures(peer, useful[0], peak) if peer else None,
        "peer_time_over_ours": peer["seconds"] / ours["seconds"] if peer else None,
        "parts": parts_in_use("auto"),
        "versions": {package: version(package) for package in ("torch", "megatron-core", "transformers")},
        "device": torch.cuda.get_device_name() if has_gpu else platform.machine(),
    }
    if not has_gpu:
        result["note"] = "toy size on a CPU: the figures mean nothing"
    print(json.dumps(result, indent=1))


def _ragged_lengths(seed: int, tokens: int, mean: int) -> list[int]:
    """Log-normal lengths that add up to `tokens`."""
    generator, lengths = np.random.default_rng(seed), []
    while (left := tokens - sum(lengths)) > 0:
        drawn = round(generator.lognormal(np.log(mean / 2), 0.8))
        # the last one takes what is left, so that none has no output
        lengths.append(left if left - max(2, drawn) < 2 else max(2, drawn))
    return lengths


def _samples(lengths: list[int], vocab_size: int) -> list[TrainSample]:
    generator, total = np.random.default_rng(0), sum(lengths) - len(lengths)
    return [
        TrainSample(
            prompt_ids=np.ones(1, np.int32),
            output_ids=generator.integers(vocab_size, size=outputs, dtype=np.int32),
            sampled=np.ones(outputs, np.bool_),
            loss_weights=np.full(outputs, 1 / total, np.float32),
            advantages=np.ones(outputs, np.float32),
            rollout_logprobs=np.zeros(outputs, np.float32),
            compared=np.zeros(outputs, np.bool_),
        )
        for outputs in (length - 1 for length in lengths)
    ]


def _write_random_model(folder: Path, fields: dict[str, Any]) -> Path:
    source = folder.with_name("source")
    source.mkdir(parents=True)
    (source / "config.json").write_text(json.dumps(fields))
    architecture = architecture_of(HfConfig(dict(fields)))
    dtype = getattr(torch, fields["torch_dtype"])

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in architecture.hf_shapes():
            yield name, torch.ones(shape, dtype=dtype) if "norm" in name else torch.randn(shape).mul_(0.02).to(dtype)

    write_folder(folder, tensors(), architecture=architecture, source=source, dtype=dtype)
    return folder


def _measure_ours(
    folder: Path, batches: list[list[TrainSample]], fields: dict[str, Any], rounds: int
) -> list[dict[str, float]]:
    """On the first batch, on each of the others in turn, and on the first deterministically."""
    section = MegatronSection(bf16=fields["torch_dtype"] == "bfloat16")
    distributed.initialize(section, timeout_s=600)
    budget = sum(sample.num_tokens for sample in batches[0])
    policy = Policy(folder, section, PolicySection(max_tokens_per_micro_batch=budget))
    others = iter(batches[1:])

    def even() -> object:
        return policy.update(batches[0], 1.0, LossSection(), LR)

    def ragged() -> object:
        return policy.update(next(others), 1.0, LossSection(), LR)

    return _measure([even, ragged, _deterministically(even)], rounds)


def _measure_peer(folder: Path, samples: list[TrainSample], rounds: int) -> dict[str, float] | None:
    """None: its memory does not suffice, for its logits exist at once."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        (peer,) = _measure([_peer_step(folder, samples)], rounds)
    except torch.OutOfMemoryError:
        return None
    return peer


def _peer_step(folder: Path, samples: list[TrainSample]) -> Callable[[], object]:
    from transformers import AutoModelForCausalLM

    device = distributed.device()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device)
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=torch.cuda.is_available())
    ids = torch.from_numpy(np.stack([np.concatenate([s.prompt_ids, s.output_ids]) for s in samples])).long().to(device)
    compiled = torch.compile(model) if torch.cuda.is_available() else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = compiled(ids).logits[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _deterministically(step: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        make_deterministic()
        try:
            step()
        finally:
            torch.use_deterministic_algorithms(False)

    return run


def _measure(steps: list[Callable[[], object]], rounds: int) -> list[dict[str, float]]:
    """Median time and peak memory of each, taken in turn."""
    times: list[list[float]] = [[] for _ in steps]
    peaks = [float("nan")] * len(steps)
    for number, (place, step) in product(range(rounds + WARM_UP), enumerate(steps)):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = time.monotonic()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            peaks[place] = torch.cuda.max_memory_allocated() / 2**30
        if number >= WARM_UP:
            times[place].append(time.monotonic() - started)
    return [{"seconds": median(own), "peak_gib": peak} for own, peak in zip(times, peaks, strict=True)]


def _figures(measured: dict[str, float], useful: float, peak_tflops: float | None) -> dict[str, float | None]:
    tflops = useful / measured["seconds"] / 1e12
    memory = None if measured["peak_gib"] != measured["peak_gib"] else measured["peak_gib"]
    mfu = tflops / peak_tflops if peak_tflops else None
    return {"seconds_median": measured["seconds"], "tflops": tflops, "mfu": mfu, "peak_gib": memory}


if __name__ == "__main__":
    main()
