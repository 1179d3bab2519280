"""One training step of the policy against Hugging Face with torch.compile: time, operations, memory.

Responses of one length, then ragged ones of as many tokens, then the same step with `policy.deterministic`, for its
price. The peer has a process of its own, for two models with their optimizers do not fit side by side; it keeps float32
masters of its weights as the policy does, and takes its batch in two parts.

Random weights, one device, packed micro-batches of responses without prompts. On a GPU the default is
R1-Distill-Qwen-1.5B with 16384 tokens in a micro-batch; on a CPU a toy model runs, and says so.

Usage: python benchmarks/train_step.py [--preset NAME] [--tokens 16384] [--length 4096] [--rounds 5] [--peak-tflops 989]
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.hf_folder import write_folder
from egrc_mega.convert.presets import PRESETS
from egrc_mega.policy import distributed
from egrc_mega.policy.determinism import make_deterministic
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.flops import FlopModel
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
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
RAGGED = (300, 2100, 999, 4096, 1777, 640, 3333, 1500, 1639)
"""Of 16384 tokens: lengths as uneven as sampled responses."""
Record = Callable[..., None]
"""Of a name and figures."""


def main() -> None:
    """Print one JSON object."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default=None)
    parser.add_argument("--tokens", type=int, default=None)
    parser.add_argument("--length", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=None)
    parser.add_argument("--peer-of", type=Path, default=None, help="a model's folder: measure the peer alone")
    arguments = parser.parse_args()
    size = Size.of(arguments.preset, arguments.tokens, arguments.length, arguments.rounds)
    figures: dict[str, dict[str, Any]] = {}

    def record(name: str, **values: Any) -> None:
        mfu = values["tflops"] / arguments.peak_tflops if arguments.peak_tflops else None
        figures[name] = values | {"mfu": mfu}

    if arguments.peer_of:
        measure_peer(arguments.peer_of, record, size)
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = write_random_model(Path(name) / "model", size.fields)
        command = [sys.executable, *sys.argv, "--peer-of", str(folder)]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        measure_ours(folder, record, size, with_deterministic=True)
    figures |= json.loads(found.splitlines()[-1])
    result: dict[str, Any] = {"tokens": size.tokens, "length": size.length} | figures
    result |= {
        "deterministic_time_over_ours": figures["ours, deterministic"]["seconds"] / figures["ours"]["seconds"],
        "peer_time_over_ours": figures["hugging_face_compiled"]["seconds"] / figures["ours"]["seconds"],
        "versions": {package: version(package) for package in ("torch", "megatron-core", "transformers")},
        "device": torch.cuda.get_device_name() if has_gpu else platform.machine(),
    }
    if not has_gpu:
        result["note"] = "toy size on a CPU: the figures mean nothing"
    print(json.dumps(result, indent=1))


@dataclass(frozen=True, slots=True)
class Size:
    """What a step trains, and how often it is taken."""

    fields: dict[str, Any]
    """Of the model's config.json."""
    tokens: int
    length: int
    rounds: int

    @classmethod
    def of(
        cls, preset: str | None = None, tokens: int | None = None, length: int | None = None, rounds: int = 5
    ) -> "Size":
        """The defaults of a GPU, or a toy's."""
        has_gpu = torch.cuda.is_available()
        name = preset or ("deepseek-r1-distill-qwen-1.5b" if has_gpu else "toy")
        sizes = (tokens or (16384 if has_gpu else 512), length or (4096 if has_gpu else 128))
        return cls(TOY if name == "toy" else PRESETS[name], *sizes, rounds)

    def uniform(self) -> list[TrainSample]:
        """Responses of one length."""
        return _samples([self.length] * (self.tokens // self.length), self.fields["vocab_size"])

    def ragged(self) -> list[TrainSample]:
        """As many tokens in responses of uneven lengths."""
        lengths = [max(2, length * self.tokens // sum(RAGGED)) for length in RAGGED]
        return _samples(lengths, self.fields["vocab_size"])

    def batches(self) -> dict[str, list[TrainSample]]:
        """Responses of one length, and ragged ones."""
        return {"ours": self.uniform(), "ours, ragged": self.ragged()}

    def operations(self, samples: list[TrainSample]) -> float:
        """Useful ones of a step, in 1e12."""
        flops = FlopModel.of(architecture_of(HfConfig(dict(self.fields))))
        return flops.training([s.num_tokens for s in samples], sum(len(s.output_ids) for s in samples)) / 1e12


def measure_ours(folder: Path, record: Record, size: Size | None = None, *, with_deterministic: bool = False) -> None:
    """The policy's step on both batches."""
    size = size or Size.of()
    step = policy_step(folder, size)
    for name, samples in size.batches().items():
        record_step(name, partial(step, samples), samples, size, record)
    if with_deterministic:
        samples = size.uniform()
        record_step("ours, deterministic", _deterministically(partial(step, samples)), samples, size, record)


def policy_step(folder: Path, size: Size) -> Callable[[list[TrainSample]], Any]:
    """A step of the policy on samples."""
    section = MegatronSection(bf16=size.fields["torch_dtype"] == "bfloat16")
    distributed.initialize(section, timeout_s=600)
    policy = Policy(folder, section, PolicySection(max_tokens_per_micro_batch=size.tokens))
    return lambda samples: policy.update(samples, 1.0, LossSection(), LR)


def measure_peer(folder: Path, record: Record, size: Size | None = None) -> None:
    """Hugging Face's step on responses of one length."""
    size = size or Size.of()
    samples = size.uniform()
    record_step("hugging_face_compiled", _peer_step(folder, samples), samples, size, record)


def record_step(name: str, step: Callable[[], Any], samples: list[TrainSample], size: Size, record: Record) -> None:
    """Median time, useful TFLOP/s, memory, and what the policy says of its last step."""
    seconds, peak, result = _measure(step, size.rounds)
    said = {key: float(getattr(result, key)) for key in ("loss", "grad_norm") if hasattr(result, key)}
    record(name, seconds=seconds, tflops=size.operations(samples) / seconds, peak_gib=peak, **said)


def profile_step(step: Callable[[], Any], table: Path) -> dict[str, float]:
    """Kernels of one step, and for how long the device had one; the heaviest stand in `table`."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + torch.cuda.is_available()]) as found:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    own = DeviceType.CUDA if torch.cuda.is_available() else DeviceType.CPU
    order = "device_time_total" if torch.cuda.is_available() else "cpu_time_total"
    table.write_text(found.key_averages().table(sort_by=order, row_limit=45, max_name_column_width=70))
    spans = sorted((e.time_range.start, e.time_range.end) for e in found.events() if e.device_type == own)
    busy = last = 0.0
    for begin, end in spans:
        busy += max(0.0, end - max(begin, last))
        last = max(last, end)
    return {"kernels": len(spans), "busy_ms": busy / 1e3, "span_ms": (last - spans[0][0]) / 1e3}


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


def write_random_model(folder: Path, fields: dict[str, Any]) -> Path:
    """A checkpoint in Hugging Face's layout of random weights."""
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


def _peer_step(folder: Path, samples: list[TrainSample], parts: int = 2) -> Callable[[], object]:
    from transformers import AutoModelForCausalLM

    device = distributed.device()
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device)
    weights = list(model.parameters())
    masters = [weight.detach().float().clone() for weight in weights]
    optimizer = torch.optim.AdamW(masters, LR, fused=torch.cuda.is_available())
    ids = torch.from_numpy(np.stack([np.concatenate([s.prompt_ids, s.output_ids]) for s in samples])).long().to(device)
    compiled = torch.compile(model) if torch.cuda.is_available() else model

    def step() -> None:
        for part in ids.chunk(parts):
            logits = compiled(part).logits[:, :-1].flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits.float(), part[:, 1:].flatten())
            (loss * len(part) / len(ids)).backward()
        for master, weight in zip(masters, weights, strict=True):
            master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for master, weight in zip(masters, weights, strict=True):
                weight.copy_(master)

    return step


def _deterministically(step: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        make_deterministic()
        try:
            step()
        finally:
            torch.use_deterministic_algorithms(False)

    return run


def _measure(step: Callable[[], Any], rounds: int) -> tuple[float, float | None, Any]:
    """Median time, peak memory in GiB, and the last result."""
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    times, result = [], None
    for number in range(rounds + 2):
        if has_gpu:
            torch.cuda.synchronize()
        started = time.monotonic()
        result = step()
        if has_gpu:
            torch.cuda.synchronize()
        if number >= 2:  # the first rounds compile and warm up
            times.append(time.monotonic() - started)
    return median(times), torch.cuda.max_memory_allocated() / 2**30 if has_gpu else None, result


if __name__ == "__main__":
    main()
