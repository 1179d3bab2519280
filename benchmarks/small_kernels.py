"""The small kernels of gpu_parts.py at the sizes of the 1.5B and 7B models, others' beside them, and bytes to move."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from egrc_kernels.logprob import logprob_entropy
from egrc_kernels.policy_loss import LossSettings, policy_loss
from egrc_kernels.rmsnorm import rmsnorm
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import swiglu

from egrc_mega.bench import peers
from egrc_mega.bench.peers import Function

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A function of one tensor and the bytes that it moves forward and in both directions together."""

    name: str
    function: Callable[[torch.Tensor], torch.Tensor]
    x: torch.Tensor
    forward_bytes: float
    both_bytes: float
    copies: int = 4
    """In one CUDA graph."""

    def ways(self) -> Iterator[tuple[str, Call, float]]:
        """Forward alone, and forward with backward."""
        live = self.x.detach().requires_grad_()
        upstream: list[torch.Tensor] = []

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return self.function(self.x)

        def both() -> Any:
            output = self.function(live)
            if not upstream:
                upstream.append(torch.ones_like(output))
            return torch.autograd.grad(output, live, upstream[0])

        yield "forward", forward, self.forward_bytes
        yield "both ways", both, self.both_bytes


def cases(device: str, dtype: torch.dtype, vocab: int, *, toy: bool) -> Iterator[Case]:
    """One after the other, so that their inputs do not exist together."""
    tokens = 64 if toy else 32768
    for hidden, ffn in [(64, 128)] if toy else [(1536, 8960), (3584, 18944)]:
        x, weight = (torch.randn(*s, device=device).to(dtype) for s in ((tokens, hidden), (hidden,)))
        size = x.numel() * x.element_size()
        for name, norm in _norms(toy).items():
            yield Case(f"rmsnorm {hidden}{name}", lambda a, f=norm, w=weight: f(a, w), x, 2 * size, 5 * size)
        angles = torch.rand(4096, 32 if toy else 64, device=device)
        places = torch.arange(tokens, device=device) % 4096
        heads = x.view(tokens, -1, 2 * angles.shape[1])
        turn = partial(rope, cos_PE=angles.cos(), sin_PE=angles.sin(), positions_T=places)
        yield Case(f"rope {hidden}", turn, heads, 2 * size, 4 * size)
        x = torch.randn(tokens // 2, 2 * ffn, device=device).to(dtype)
        size = x.numel() * x.element_size()
        for name, gate in _gates(toy).items():
            yield Case(f"swiglu {ffn}{name}", gate, x, 1.5 * size, 4 * size, 2)
        del x, heads
    yield from _logprobs(device, dtype, vocab, 64 if toy else 8192)
    for sequences in (256, 16, 1):
        yield _loss(device, tokens, min(sequences, tokens))


def _norms(toy: bool) -> dict[str, Function]:
    """Ours, and others by how their names end."""
    found: dict[str, Function] = {"": rmsnorm, ", torch": peers.torch_rmsnorm}
    if not toy:
        found[", torch.compile"] = torch.compile(peers.eager_rmsnorm)
    return found | ({", Liger": peers.liger_rmsnorm()} if peers.has_liger() else {})


def _gates(toy: bool) -> dict[str, Function]:
    found: dict[str, Function] = {"": swiglu}
    if not toy:
        found[", torch.compile"] = torch.compile(peers.eager_swiglu)
    return found | ({", Liger, of halves that it copies": peers.liger_swiglu()} if peers.has_liger() else {})


def _logprobs(device: str, dtype: torch.dtype, vocab: int, rows: int) -> Iterator[Case]:
    logits, targets = (
        (3 * torch.randn(rows, vocab, device=device)).to(dtype),
        torch.randint(vocab, (rows,), device=device),
    )
    size = logits.numel() * logits.element_size()
    for temperature in (1.0, 0.7):
        for overwrites in (False, True):
            options = {"temperature": temperature, "overwrites_logits": overwrites}

            def logprobs(x: torch.Tensor, options: dict[str, Any] = options) -> torch.Tensor:
                return logprob_entropy(x, targets, **options).logprob_T

            place = "in place" if overwrites else "apart"
            yield Case(f"logprob of {rows} rows, T {temperature}, {place}", logprobs, logits, size, 3 * size, 1)


def _loss(device: str, tokens: int, sequences: int) -> Case:
    live, old, advantages = (0.3 * torch.randn(tokens, device=device) for _ in range(3))
    weights = torch.full_like(live, 1 / tokens)
    cuts = torch.arange(0, tokens + 1, tokens // sequences, dtype=torch.int32, device=device)
    settings = LossSettings(ratio="token")

    def loss(lp: torch.Tensor) -> torch.Tensor:
        return policy_loss(lp, advantages, weights, cuts, settings, old_logprobs_R=old).loss

    return Case(f"policy_loss in {sequences} sequences", loss, live, 20.0 * tokens, 28.0 * tokens, 20)
