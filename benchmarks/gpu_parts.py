"""The parts of gpu_all.sh, each a process of its own: `python benchmarks/gpu_parts.py PART`.

Every figure is a row of $OUT/results.jsonl, appended as soon as it is known, so that what ends a part costs only what
comes after. Results are checked against float64 before they are timed. Without a GPU everything runs at toy size.

Environment: OUT, where rows go; SIZES, `tokens x hidden` of the kernels' inputs; MODEL, the folder of the random model.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fused_tiles
import torch
from egrc_kernels.linear_logprob import chunks, linear_logprob, linear_token_loss, ops
from egrc_kernels.logprob.shards import Shard, row_stats

from egrc_mega.bench import peers
from egrc_mega.bench.measure import measure, measure_graphed

HAS_GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if HAS_GPU else ("cpu", torch.float32)
VOCAB = 152064 if HAS_GPU else 1000
SIZES = os.environ.get("SIZES", "8192x1536 8192x3584 32768x1536 32768x3584" if HAS_GPU else "64x64")
CHUNKS: list[int | None] = [None, 2**30, 2**29] if HAS_GPU else [None, 2**16]
BOUND_LOGPROB, BOUND_GRADIENT = 1e-4, 1e-2
"""Absolute error of a log-prob and relative error of a gradient (L2) beyond which nothing is timed."""
MAY_FUSE = os.environ.get("NO_FUSED") != "1"


def record(name: str, /, **values: object) -> None:
    """Append a row; values may have any name."""
    rounded = {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in values.items()}
    row = rounded | {"part": sys.argv[1], "name": name}
    with (Path(os.environ.get("OUT", ".")) / "results.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def guarded(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """A failure costs one figure and has a row."""
    try:
        return function(*arguments)
    except Exception as error:
        record(name, error=f"{type(error).__name__}: {error}"[:300])
        if HAS_GPU:
            torch.cuda.empty_cache()
        return None


def timed(name: str, call: Callable[[], object], tflop: float, rounds: int = 5, **values: object) -> None:
    """Milliseconds, useful TFLOP/s and memory of a call."""
    found = measure(call, rounds)
    peak = None if found.peak_bytes is None else found.peak_bytes / 2**30
    record(name, ms=found.seconds * 1e3, tflops=tflop / found.seconds, peak_gib=peak, **values)


class Head:
    """Inputs of the linear ops, and what float64 says of some rows and some columns."""

    def __init__(self, tokens: int, hidden: int) -> None:
        torch.manual_seed(tokens + hidden)
        self.name, self.tflop = f"{tokens}x{hidden}", 2e-12 * tokens * hidden * VOCAB
        self.x = torch.randn(tokens, hidden, device=DEVICE).to(DTYPE)
        self.weight = (2.5 / hidden**0.5 * torch.randn(VOCAB, hidden, device=DEVICE)).to(DTYPE)
        self.targets = torch.randint(VOCAB, (tokens,), device=DEVICE)
        self.slopes = torch.randn(tokens, device=DEVICE)
        # the first and the last are in the first and the last tile
        self.rows, self.columns = (
            torch.cat([torch.randperm(n - 2, device=DEVICE)[:14] + 1, torch.tensor([0, n - 1], device=DEVICE)])
            for n in (tokens, VOCAB)
        )

    def exact(self, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs of the targets of `rows` and their entropies."""
        logp = torch.log_softmax(self.x[self.rows].double() @ self.weight.double().T / temperature, -1)
        chosen = logp.gather(1, self.targets[self.rows, None])[:, 0]
        return chosen, -(logp.exp() * logp).sum(-1)

    def exact_gradients(self, log_sum_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the sum of slope times log-prob: `rows` of the hidden states' and `columns` of the weight's."""
        weight = self.weight.double()
        p = (self.x[self.rows].double() @ weight.T).softmax(-1)
        hit = torch.zeros_like(p).scatter_(1, self.targets[self.rows, None], 1.0)
        by_rows = (self.slopes[self.rows, None].double() * (hit - p)) @ weight
        p = (self.x.double() @ weight[self.columns].T - log_sum_T.double()[:, None]).exp()
        hits = (self.targets[:, None] == self.columns).double()
        return by_rows, (self.slopes[:, None].double() * (hits - p)).T @ self.x.double()

    def token_loss(self, logprobs: torch.Tensor, place: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Slope times log-prob."""
        return (self.slopes[place] * logprobs).sum(), self.slopes[place]


def heads() -> list[tuple[int, int]]:
    """Tokens and hidden sizes asked for."""
    return [(int(tokens), int(hidden)) for tokens, hidden in (size.split("x") for size in SIZES.split())]


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """L2."""
    return float((found.double() - exact).norm() / exact.norm())


def versions() -> None:
    """Card, versions, and the rates of a product and a copy."""
    import importlib.metadata
    import platform

    packages = {}
    for package in ("torch", "triton", "transformers", "megatron-core", "liger-kernel"):
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = None
    record("versions", python=platform.python_version(), torch_build=torch.__version__, **packages)
    if HAS_GPU:
        card = torch.cuda.get_device_properties(0)
        cudnn = torch.backends.cudnn.version()
        size = {"processors": card.multi_processor_count, "gib": card.total_memory / 2**30}
        record("device", card=card.name, **size, cudnn=cudnn)
    side, size = (8192, 2**30) if HAS_GPU else (128, 2**16)
    a, b = (torch.randn(side, side, device=DEVICE, dtype=DTYPE) for _ in range(2))
    timed(f"product of {side}", lambda: a @ b, 2e-12 * side**3, 10)
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    record("copy", tb_per_s=2e-12 * size / measure(lambda: target.copy_(source), 10).seconds)


def fused() -> None:
    """The fused forward against float64. Where it hangs, the driver goes on without it."""
    head = Head(*heads()[0])
    for temperature in (1.0, 0.7):
        with torch.no_grad():
            stats = linear_logprob(head.x, head.weight, head.targets, temperature=temperature)
        errors = [
            float((found[head.rows] - exact).abs().max())
            for found, exact in zip(stats, head.exact(temperature), strict=False)
        ]
        record(f"fused forward, T {temperature}", error_logprob=errors[0], error_entropy=errors[1])
        assert max(errors) <= BOUND_LOGPROB, errors


def kernels() -> None:
    """Both forwards, the gradient, and gradients in forward, at each size and at several sizes of chunks."""
    for size in heads():
        head = Head(*size)
        if HAS_GPU:
            _products(head)
        guarded(f"{head.name} forward", _forwards, head)
        guarded(f"{head.name} gradients", _gradients, head)
        if MAY_FUSE and size == heads()[0]:
            inputs = (head.x, head.weight, head.targets, head.name, head.tflop)
            guarded(f"{head.name} tiles", fused_tiles.measure_tiles, *inputs, timed)


def _products(head: Head) -> None:
    """What cuBLAS makes of the three products, a chunk of rows at a time and the whole."""
    rows, columns = min(len(head.x), 4096), 16896
    chunk, part = head.x[:rows], head.weight[:columns]
    gradient = torch.randn(len(head.x), columns, device=DEVICE).to(DTYPE) * 1e-3
    share = rows / len(head.x), columns / VOCAB
    for name, call, part_of in (
        ("logits of 4096 rows, float32", lambda: torch.mm(chunk, head.weight.T, out_dtype=torch.float32), share[0]),
        ("logits of 16896 columns, float32", lambda: torch.mm(head.x, part.T, out_dtype=torch.float32), share[1]),
        (
            "hidden states' of 16896 columns, float32",
            lambda: torch.mm(gradient, part, out_dtype=torch.float32),
            share[1],
        ),
        ("weight's of 16896 columns", lambda: gradient.T @ head.x, share[1]),
    ):
        guarded(name, timed, f"{head.name} cuBLAS {name}", call, head.tflop * part_of)


def _forwards(head: Head) -> None:
    for temperature in (1.0, 0.7):
        exact = head.exact(temperature)[0]
        for name, size, may_fuse in (("fused", None, True), *((f"chunks, {_said(n)}", n, False) for n in CHUNKS)):
            if may_fuse and not MAY_FUSE:
                continue

            def forward(size: int | None = size, may_fuse: bool = may_fuse, t: float = temperature) -> torch.Tensor:
                return ops.linear_partials(head.x, head.weight, head.targets, 0, VOCAB, t, size, may_fuse)

            stats = row_stats(forward(), head.targets, temperature, None)
            error = float((stats.logprob_T[head.rows] - exact).abs().max())
            assert error <= BOUND_LOGPROB, f"{name}, T {temperature}: {error}"
            timed(f"{head.name} forward, {name}, T {temperature}", forward, head.tflop, error=error)


def _said(size: int | None) -> str:
    return "as it comes" if size is None else f"{size / 2**20:g} MiB"


def _gradients(head: Head) -> None:
    partials_6T = chunks.partials_by_rows(head.x, head.weight, head.targets, Shard(0, VOCAB), 1.0, 2**29)
    log_sum_T = row_stats(partials_6T, head.targets, 1.0, None).log_sum_T
    exact = head.exact_gradients(log_sum_T)
    live = [t.detach().requires_grad_() for t in (head.x, head.weight)]

    def two_pass(size: int | None, is_fused: bool = False) -> tuple[torch.Tensor, ...]:
        rest = (head.slopes, None, None, 0, VOCAB, 1.0, size, is_fused)
        return ops.linear_gradients(head.x, head.weight, head.targets, log_sum_T, *rest)

    def in_one(size: int | None, entropy_slopes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        how = {"chunk_bytes": size, "entropy_slopes_T": entropy_slopes}
        loss, _stats = linear_token_loss(*live, head.targets, head.token_loss, **how)
        return torch.autograd.grad(loss, live)

    def whole(size: int | None, is_fused: bool = False) -> tuple[torch.Tensor, ...]:
        stats = linear_logprob(*live, head.targets, chunk_bytes=size, fuses_gradients=is_fused)
        return torch.autograd.grad(stats.logprob_T, live, head.slopes)

    paths = {
        "backward": two_pass,
        "loss and gradients, logits twice": whole,
        "loss and gradients in forward": in_one,
        "loss and gradients in forward, from logits": partial(in_one, entropy_slopes=torch.zeros_like(head.slopes)),
    }
    if MAY_FUSE:
        paths |= {
            "backward, fused": partial(two_pass, is_fused=True),
            "loss and gradients, fused": partial(whole, is_fused=True),
        }
    for size in CHUNKS:
        for path, function in paths.items():
            name = f"{head.name} {path}, {_said(size)}"
            guarded(name, _checked, head, name, function, size, exact)


def _checked(head: Head, name: str, function: Any, size: int | None, exact: tuple[torch.Tensor, torch.Tensor]) -> None:
    by_x, by_weight = function(size)
    errors = relative(by_x[head.rows], exact[0]), relative(by_weight[head.columns], exact[1])
    del by_x, by_weight
    assert max(errors) <= BOUND_GRADIENT, f"wrong: {errors}"
    timed(name, lambda: function(size), 3 * head.tflop, 3, error_hidden=errors[0], error_weight=errors[1])


def liger() -> None:
    """Liger's fused linear cross entropy as it comes and with float32 sums, beside ours on the same mean."""
    for size in heads():
        head = Head(*size)
        contenders = {"ours, gradients in forward": _our_mean(head)}
        if peers.has_liger():
            contenders |= {
                "Liger": peers.liger_linear(),
                "Liger, float32 sums": peers.liger_linear(float32_sums=True),
                "Liger, float32 sums, 0.5 GiB": peers.liger_linear(float32_sums=True, logit_bytes=2**29),
            }
        _race(head, contenders)


def compiled() -> None:
    """torch.compile of the plain log-prob, and where memory allows the plain one, beside ours."""
    for size in heads():
        head = Head(*size)
        contenders = {"ours, gradients in forward": _our_mean(head)}
        functions = {"eager": peers.eager_linear_logprob} if len(head.x) <= 8192 else {}
        if HAS_GPU:
            functions["torch.compile"] = torch.compile(peers.eager_linear_logprob, dynamic=False)
        for name, function in functions.items():
            contenders[name] = lambda x, w, y, f=function: -f(x, w, y, 1.0)[0].mean()
            call = partial(_without_gradient, function, head.x, head.weight, head.targets, 1.0)
            guarded(name, timed, f"{head.name} {name}, forward", call, head.tflop, 3)
        _race(head, contenders)


def _without_gradient(function: peers.Function, *arguments: Any) -> Any:
    with torch.no_grad():
        return function(*arguments)


def _our_mean(head: Head) -> peers.Function:
    slope = torch.full((), -1 / len(head.x), device=DEVICE)

    def mean(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return linear_token_loss(x, weight, targets, lambda lp, _rows: ((slope * lp).sum(), slope.expand(len(lp))))[0]

    return mean


def _race(head: Head, contenders: dict[str, peers.Function]) -> None:
    live = [t.detach().requires_grad_() for t in (head.x, head.weight)]
    for name, mean in contenders.items():
        call = lambda f=mean: torch.autograd.grad(f(*live, head.targets), live)  # noqa: E731
        guarded(name, timed, f"{head.name} {name}, loss and gradients", call, 3 * head.tflop, 3)


def small() -> None:
    """Row kernels and parts of a layer: device time in a CUDA graph, share of the copy's rate of this process."""
    from small_kernels import cases

    size = 2**30 if HAS_GPU else 2**16
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    rate = 2 * size / measure(lambda: target.copy_(source), 10).seconds
    for case in cases(DEVICE, DTYPE, VOCAB, toy=not HAS_GPU):
        for way, call, moved in case.ways():
            name = f"{case.name}, {way}"
            guarded(name, _graphed, name, call, moved, case.copies, rate)


def _graphed(name: str, call: Callable[[], object], moved: float, copies: int, rate: float) -> None:
    seconds = measure_graphed(call, copies)
    started = time.perf_counter()
    for _ in range(copies):
        call()
    host = (time.perf_counter() - started) / copies
    record(name, us=seconds * 1e6, share_of_copy=moved / seconds / rate, host_us=host * 1e6)


def model() -> None:
    """Random weights of the 1.5B model into $MODEL, on the CPU, while the GPU does something else."""
    import train_step

    started = time.monotonic()
    train_step.write_random_model(Path(os.environ["MODEL"]) / "model", train_step.Size.of().fields)
    record("random model written", seconds=time.monotonic() - started)


def probe() -> None:
    """What the policy takes for granted of torch on this machine."""
    import gpu_probes

    gpu_probes.probe(record, guarded)


def mini() -> None:
    """The miniature from end to end, with the trainer on the GPU."""
    import gpu_probes

    gpu_probes.mini(record)


def train() -> None:
    """One training step: responses of one length, ragged ones, and where the time of those goes."""
    import train_step

    from egrc_mega.policy.layer_spec import parts_in_use

    size = train_step.Size.of()
    record("parts", **parts_in_use("auto"))
    step = train_step.policy_step(Path(os.environ["MODEL"]) / "model", size)
    for name, samples in size.batches().items():
        guarded(name, train_step.record_step, name, partial(step, samples), samples, size, _with_mfu)
    table = Path(os.environ.get("OUT", ".")) / "profile.txt"
    profiled = guarded("profile", train_step.profile_step, partial(step, size.ragged()), table)
    if profiled:
        record("profile of a ragged step", **profiled)


def _with_mfu(name: str, **values: Any) -> None:
    """With the share of an H100's or H200's peak in bf16."""
    record(name, **values, mfu_of_989=values["tflops"] / 989)


def peer() -> None:
    """The same by Hugging Face and torch.compile, with float32 masters, in a process without our model beside it."""
    import train_step

    train_step.measure_peer(Path(os.environ["MODEL"]) / "model", _with_mfu)


def hang() -> None:
    """For the driver's test."""
    record("before the hang", ok=True)
    time.sleep(3600)


def crash() -> None:
    """For the driver's test."""
    record("before the crash", ok=True)
    os.abort()


def table() -> None:
    """At most 60 lines of what was found, failures first."""
    file = Path(os.environ.get("OUT", ".")) / "results.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    failed = [row for row in rows if isinstance(row.get("error"), str) or row.get("exit")]
    rows = failed + [row for row in rows if row not in failed and row["name"] != "ended"]
    lines = []
    for row in rows:
        values = "  ".join(f"{key} {value}" for key, value in row.items() if key not in ("part", "name"))
        lines.append(f"{row['part']:<9}{row['name']:<62.62} {values[:110]}")
    if len(lines) > 60:
        lines = [*lines[:59], f"and {len(lines) - 59} more in results.jsonl"]
    print("\n".join(lines))


PARTS = (versions, fused, probe, kernels, liger, compiled, small, model, train, mini, peer, hang, crash, table)

if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    {part.__name__: part for part in PARTS}[sys.argv[1]]()
