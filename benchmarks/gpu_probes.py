"""What gpu_parts.py asks torch of this GPU, and the whole product on it: the parts `probe` and `mini`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from egrc_kernels.linear_logprob.products import add_product_in_float32

from egrc_mega.policy import distributed  # noqa: F401  (first: it bends megatron to the CPU)

# isort: split
from egrc_mega.policy import attention
from egrc_mega.policy.packed import pack

HAS_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if HAS_GPU else ("cpu", torch.float32)
HEADS, GROUPS, DIM = (12, 2, 128) if HAS_GPU else (4, 2, 16)
LENGTHS = (300, 1, 513, 210) if HAS_GPU else (30, 1, 51, 21)
BOUND = 2e-2
"""Relative error of bf16 attention beyond which it is wrong."""
Record = Callable[..., None]


def probe(record: Record, guarded: Callable[..., Any]) -> None:
    """Whether torch does here what the policy takes for granted, and what lengths that are new to it cost."""
    guarded("sum of products in its own place", _sum_in_place, record)
    guarded("attention over a ragged batch", _ragged_attention, record)
    guarded("attention of lengths never seen before", _new_lengths, record)


def _sum_in_place(record: Record) -> None:
    x, y = (torch.randn(*s, device=DEVICE).to(DTYPE) for s in ((256, 512), (512, 384)))
    total = torch.randn(256, 384, device=DEVICE)
    exact = total.double() + x.double() @ y.double()
    found = add_product_in_float32(total, x, y)
    assert found.data_ptr() == total.data_ptr(), "the sum has moved"
    error = _relative(found, exact)
    assert error <= 1e-5, error
    record("sum of products in its own place", error=error)


def _ragged_attention(record: Record) -> None:
    """The policy's own call, keys shared between heads, both ways against float64 sequence by sequence."""
    boundaries = [0, *accumulate(LENGTHS)]
    parts = pack(boundaries, torch.device(DEVICE)).parts
    assert parts is not None
    live = [
        torch.randn(boundaries[-1], n, DIM, device=DEVICE).to(DTYPE).requires_grad_() for n in (HEADS, GROUPS, GROUPS)
    ]
    flash = attention._takes_flash(live[0])
    attend = attention.flash_attention if flash else attention.attention_by_sequence
    found = attend(*live, parts, None)
    upstream = torch.randn_like(found)
    doubles = [x.detach().double().requires_grad_() for x in live]
    exact = attention.attention_by_sequence(*doubles, parts, None)
    results = zip(
        (found, *torch.autograd.grad(found, live, upstream)),
        (exact, *torch.autograd.grad(exact, doubles, upstream.double())),
        strict=True,
    )
    errors = [_relative(*pair) for pair in results]
    assert max(errors) <= BOUND, errors
    record("attention over a ragged batch", one_launch=flash, errors=[float(f"{error:.2g}") for error in errors])


def _new_lengths(record: Record) -> None:
    """Milliseconds a sequence, forward and backward, of torch's own choice and without cuDNN, which plans by length."""
    first = range(700, 710) if HAS_GPU else range(20, 22)
    _run([640 if HAS_GPU else 16])
    values = {"first_ms": _run(first), "again_ms": _run(first)}
    with _without_cudnn():
        _run([640 if HAS_GPU else 16])
        values["without_cudnn_first_ms"] = _run(range(first.stop, first.stop + len(first)))
    record("attention of lengths never seen before", **values)


def _run(lengths: range | list[int]) -> float:
    begun = time.perf_counter()
    for length in lengths:
        query, key, value = (
            torch.randn(1, n, length, DIM, device=DEVICE, dtype=DTYPE).requires_grad_() for n in (HEADS, GROUPS, GROUPS)
        )
        F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).sum().backward()
    if HAS_GPU:
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) * 1e3 / len(lengths)


@contextmanager
def _without_cudnn() -> Iterator[None]:
    was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)


def _relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def mini(record: Record) -> None:
    """The miniature from the command line to the export: the trainer on the GPU, servers on the CPU."""
    steps, problems = (6, 64) if HAS_GPU else (1, 4)
    root, begun = Path(__file__).parents[1], time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "--fresh"]
        command += ["--config", str(root / "configs" / "quickstart.yaml")]
        for setting in (
            f"run.dir={run}",
            f"stages.compress.steps={steps}",
            f"stages.explore.steps={steps}",
            f"evaluation.num_problems={problems}",
        ):
            command += ["--set", setting]
        code = subprocess.run(command, env=os.environ | {"EGRC_KERNELS": "auto"}).returncode
        metrics = run / "metrics.jsonl"
        rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    kept = ("logprob_diff_max", "time_train_s", "time_rollout_s", "grad_norm")
    values = {key: [float(f"{row[key]:.3g}") for row in rows if isinstance(row.get(key), float)] for key in kept}
    record("miniature", exit_code=code, seconds=time.monotonic() - begun, steps=len(rows), **values)
    assert code == 0, f"egrc train ended with {code}"
