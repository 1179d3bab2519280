"""What is measured of each op: inputs, contenders, the check they must pass, and the work that they do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from egrc_kernels.linear_logprob import linear_logprob, linear_token_loss
from egrc_kernels.logprob import logprob_entropy
from egrc_kernels.policy_loss import LossSettings, policy_loss
from egrc_kernels.rmsnorm import rmsnorm
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import swiglu

from egrc_mega.bench import peers
from egrc_mega.bench.peers import Function

TEMPERATURE = 1.0
"""The peers have no other."""
CHECKED_ROWS = 32


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes and dtype of the inputs."""

    tokens: int
    hidden: int
    vocab: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Contender:
    """One implementation in one mode."""

    name: str
    mode: str
    """forward, backward (timed with the forward that it needs) or loss (forward and backward of a whole loss)."""
    call: Callable[[], Any]
    error: Callable[[], float] | None
    """Relative L2 of its result against float64; None: it gives nothing that could be compared row by row."""


@dataclass(frozen=True, slots=True)
class Case:
    """One op at its sizes."""

    op: str
    unit: str
    """TFLOP/s or GB/s."""
    work: dict[str, float]
    """Of each mode: operations, or bytes that must be read and written."""
    contenders: list[Contender]


def build_case(op: str, sizes: Sizes, baselines: frozenset[str]) -> Case:
    """Inputs on the device of this process, and who competes."""
    return BUILDERS[op](sizes, baselines)


def _tensors(*shapes: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> list[torch.Tensor]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    return [(torch.randn(s, generator=generator, device=device) * scale).to(dtype) for s in shapes]


def _targets(sizes: Sizes) -> torch.Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    return torch.randint(sizes.vocab, (sizes.tokens,), generator=generator, device=device)


def _relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def _both_ways(
    name: str, function: Function, inputs: list[torch.Tensor], exact: tuple[torch.Tensor, ...]
) -> Iterator[Contender]:
    """Forward alone, and forward with backward of an upstream gradient of ones; both checked.

    `exact` has values, the gradient by the first input and, where it is known, by the second one: of the first rows.
    """
    live = [x.detach().clone().requires_grad_() for x in inputs]
    upstream: list[torch.Tensor] = []

    def forward() -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = function(*inputs)
            return output

    def backward() -> list[torch.Tensor]:
        output = function(*live)
        if not upstream:
            upstream.append(torch.ones_like(output))
        return list(torch.autograd.grad(output, live, upstream[0]))

    values, *gradients = exact
    yield Contender(name, "forward", forward, lambda: _relative(forward()[: len(values)], values))
    yield Contender(name, "backward", backward, lambda: _first_errors(backward, gradients))


def _exact(function: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and gradient by the first input of the first rows, in float64."""
    doubles = [x.detach().double() for x in inputs]
    doubles[0] = doubles[0][:CHECKED_ROWS].requires_grad_()
    output = function(*doubles)
    (gradient,) = torch.autograd.grad(output, doubles[0], torch.ones_like(output))
    return output.detach(), gradient


def _logprob(sizes: Sizes, baselines: frozenset[str]) -> Case:
    (logits,) = _tensors((sizes.tokens, sizes.vocab), dtype=sizes.dtype, scale=3.0)
    targets = _targets(sizes)
    exact = _exact(lambda x: torch.log_softmax(x, -1).gather(1, targets[:CHECKED_ROWS, None])[:, 0], [logits])
    functions: dict[str, Function] = {
        "egrc": lambda x: logprob_entropy(x, targets, temperature=TEMPERATURE).logprob_T,
        "eager": lambda x: peers.eager_logprob(x, targets, TEMPERATURE)[0],
    }
    if "compile" in baselines:
        compiled = torch.compile(peers.eager_logprob)
        functions["compile"] = lambda x: compiled(x, targets, TEMPERATURE)[0]
    if "megatron" in baselines:
        megatron = peers.megatron_cross_entropy()
        functions["megatron"] = lambda x: -megatron(x, targets, TEMPERATURE)[:, 0]
    contenders = _enter(functions, baselines, [logits], exact)
    size = logits.numel() * logits.element_size()
    return Case("logprob", "GB/s", {"forward": size, "backward": 4 * size}, contenders)


def _linear_logprob(sizes: Sizes, baselines: frozenset[str]) -> Case:
    hidden, weight = _tensors((sizes.tokens, sizes.hidden), (sizes.vocab, sizes.hidden), dtype=sizes.dtype)
    weight = weight * (2.0 / sizes.hidden**0.5)
    targets = _targets(sizes)
    values, gradient = _exact(
        lambda h, w: torch.log_softmax(h @ w.T, -1).gather(1, targets[:CHECKED_ROWS, None])[:, 0], [hidden, weight]
    )
    exact = (values, gradient, _exact_by_weight(hidden, weight, targets))
    functions: dict[str, Function] = {
        "egrc": lambda h, w: linear_logprob(h, w, targets, temperature=TEMPERATURE).logprob_T,
        "eager": lambda h, w: peers.eager_linear_logprob(h, w, targets, TEMPERATURE)[0],
    }
    if "compile" in baselines:
        compiled = torch.compile(peers.eager_linear_logprob)
        functions["compile"] = lambda h, w: compiled(h, w, targets, TEMPERATURE)[0]
    contenders = _enter(functions, baselines, [hidden, weight], exact)
    contenders += _whole_losses([hidden, weight], targets, functions, baselines, list(exact[1:]))
    product = 2.0 * sizes.tokens * sizes.hidden * sizes.vocab
    return Case(
        "linear_logprob", "TFLOP/s", {"forward": product, "backward": 3 * product, "loss": 3 * product}, contenders
    )


def _exact_by_weight(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Gradient of the sum of all log-probs by the first rows of the weight, in float64, some tokens at a time."""
    first, whole = weight[:CHECKED_ROWS].double(), weight.double()
    total = torch.zeros_like(first)
    for part, own in zip(hidden.double().split(512), targets.split(512), strict=True):
        p = (part @ first.T - torch.logsumexp(part @ whole.T, 1, keepdim=True)).exp()
        hits = own[:, None] == torch.arange(len(first), device=own.device)
        total += (hits.double() - p).T @ part
    return total


def _whole_losses(
    inputs: list[torch.Tensor],
    targets: torch.Tensor,
    functions: dict[str, Function],
    baselines: frozenset[str],
    gradients: list[torch.Tensor],
) -> Iterator[Contender]:
    """The mean log-prob with its gradients: where gradients can be made in forward."""
    count = len(targets)

    def gradients_in_forward(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        slope = torch.full((), -1 / count, device=h.device)
        loss, _stats = linear_token_loss(h, w, targets, lambda lp, _rows: (-lp.sum() / count, slope.expand(len(lp))))
        return loss

    chosen = {name: function for name, function in functions.items() if name in {"egrc"} | baselines}
    means: dict[str, Function] = {name: _mean_of(function) for name, function in chosen.items()}
    means["egrc, gradients in forward"] = gradients_in_forward
    if "torch" in baselines and hasattr(torch.nn.functional, "linear_cross_entropy"):
        means["torch"] = partial(peers.torch_linear, targets=targets)
    if "liger" in baselines and peers.has_liger():
        liger = peers.liger_linear()
        means["liger"] = partial(liger, targets=targets)
    for name, mean in means.items():
        live = [x.detach().clone().requires_grad_() for x in inputs]

        call = partial(_gradients, mean, live)
        yield Contender(name, "loss", call, partial(_first_errors, call, [-g / count for g in gradients]))


def _mean_of(function: Function) -> Function:
    return lambda h, w: -function(h, w).mean()


def _gradients(mean: Function, live: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(mean(*live), live))


def _first_errors(call: Callable[[], list[torch.Tensor]], exact: list[torch.Tensor]) -> float:
    """The largest of the inputs'."""
    return max(_relative(found[: len(rows)], rows) for found, rows in zip(call(), exact, strict=False))


def _policy_loss(sizes: Sizes, baselines: frozenset[str]) -> Case:
    logprobs, old, advantages = _tensors(*[(sizes.tokens,)] * 3, dtype=torch.float32, scale=0.3)
    weights = torch.full_like(logprobs, 1 / sizes.tokens)
    boundaries = torch.arange(
        0, sizes.tokens + 1, max(1, sizes.tokens // 16), dtype=torch.int32, device=logprobs.device
    )
    boundaries[-1] = sizes.tokens
    settings = LossSettings(ratio="token")

    def ours(lp: torch.Tensor) -> torch.Tensor:
        return policy_loss(lp, advantages, weights, boundaries, settings, old_logprobs_R=old).loss[None]

    double = [x.double() for x in (logprobs, old, advantages, weights)]
    double[0].requires_grad_()
    loss = peers.eager_policy_loss(*double)
    exact = (loss.detach()[None], torch.autograd.grad(loss, double[0])[0])
    functions: dict[str, Function] = {
        "egrc": ours,
        "eager": lambda lp: peers.eager_policy_loss(lp, old, advantages, weights)[None],
    }
    if "compile" in baselines:
        compiled = torch.compile(peers.eager_policy_loss)
        functions["compile"] = lambda lp: compiled(lp, old, advantages, weights)[None]
    contenders = _enter(functions, baselines, [logprobs], exact)
    return Case("policy_loss", "GB/s", {"forward": 20.0 * sizes.tokens, "backward": 24.0 * sizes.tokens}, contenders)


def _rmsnorm(sizes: Sizes, baselines: frozenset[str]) -> Case:
    x, weight = _tensors((sizes.tokens, sizes.hidden), (sizes.hidden,), dtype=sizes.dtype)
    exact = _exact(lambda a, w: a * torch.rsqrt(a.square().mean(-1, keepdim=True) + 1e-6) * w, [x, weight])
    functions: dict[str, Function] = {"egrc": rmsnorm, "eager": peers.eager_rmsnorm}
    if "compile" in baselines:
        functions["compile"] = torch.compile(peers.eager_rmsnorm)
    if "liger" in baselines and peers.has_liger():
        functions["liger"] = peers.liger_rmsnorm()
    if "torch" in baselines:
        functions["torch"] = peers.torch_rmsnorm
    size = x.numel() * x.element_size()
    return Case(
        "rmsnorm",
        "GB/s",
        {"forward": 2.0 * size, "backward": 5.0 * size},
        _enter(functions, baselines, [x, weight], exact),
    )


def _swiglu(sizes: Sizes, baselines: frozenset[str]) -> Case:
    (x,) = _tensors((sizes.tokens, 2 * sizes.hidden), dtype=sizes.dtype)
    exact = _exact(peers.eager_swiglu, [x])
    functions: dict[str, Function] = {"egrc": swiglu, "eager": peers.eager_swiglu}
    if "compile" in baselines:
        functions["compile"] = torch.compile(peers.eager_swiglu)
    if "liger" in baselines and peers.has_liger():
        functions["liger"] = peers.liger_swiglu()
    size = x.numel() * x.element_size()
    return Case(
        "swiglu", "GB/s", {"forward": 1.5 * size, "backward": 4.0 * size}, _enter(functions, baselines, [x], exact)
    )


def _rope(sizes: Sizes, baselines: frozenset[str]) -> Case:
    head_dim = min(128, sizes.hidden)
    (x,) = _tensors((sizes.tokens, sizes.hidden // head_dim, head_dim), dtype=sizes.dtype)
    length = min(4096, sizes.tokens)
    positions = torch.arange(sizes.tokens, device=x.device) % length
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, device=x.device) / head_dim)
    angles = torch.arange(length, device=x.device)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    exact = _exact(lambda a: peers.eager_rope(a, cos.double(), sin.double(), positions[:CHECKED_ROWS]).flatten(1), [x])
    functions: dict[str, Function] = {
        "egrc": lambda a: rope(a, cos, sin, positions).flatten(1),
        "eager": lambda a: peers.eager_rope(a, cos, sin, positions).flatten(1),
    }
    if "compile" in baselines:
        compiled = torch.compile(peers.eager_rope)
        functions["compile"] = lambda a: compiled(a, cos, sin, positions).flatten(1)
    size = x.numel() * x.element_size()
    return Case(
        "rope", "GB/s", {"forward": 2.0 * size, "backward": 4.0 * size}, _enter(functions, baselines, [x], exact)
    )


def _enter(
    functions: dict[str, Function], baselines: frozenset[str], inputs: list[torch.Tensor], exact: Any
) -> list[Contender]:
    chosen = {name: f for name, f in functions.items() if name == "egrc" or name in baselines}
    return [c for name, f in chosen.items() for c in _both_ways(name, f, inputs, exact)]


BUILDERS: dict[str, Callable[[Sizes, frozenset[str]], Case]] = {
    "logprob": _logprob,
    "linear_logprob": _linear_logprob,
    "policy_loss": _policy_loss,
    "rmsnorm": _rmsnorm,
    "swiglu": _swiglu,
    "rope": _rope,
}
