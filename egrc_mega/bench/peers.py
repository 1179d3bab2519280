"""The other implementations: plain torch, the same compiled, Liger-Kernel and megatron where they are installed."""

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

Function = Callable[..., Any]


def eager_logprob(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What most trainers write: float32 logits, a log-softmax, a gather, a sum."""
    logp = torch.log_softmax(logits.float() / temperature, dim=-1)
    return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def eager_linear_logprob(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from hidden states: all logits exist."""
    return eager_logprob(hidden @ weight.T, targets, temperature)


def eager_rmsnorm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Hugging Face's norm of Llama, in eager mode."""
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def eager_swiglu(x: torch.Tensor) -> torch.Tensor:
    """Hugging Face's, on gate and up side by side."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def eager_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Hugging Face's, with the angles' own type rounded to the input's."""
    c, s = (torch.cat([t, t], -1)[positions][:, None].to(x.dtype) for t in (cos, sin))
    first, second = x.chunk(2, -1)
    return x * c + torch.cat([-second, first], -1) * s


def eager_policy_loss(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """PPO's clipped loss with the metrics that everybody logs."""
    difference = logprobs - old
    ratio = difference.exp()
    clipped = ratio.clamp(0.8, 1.2)
    loss = -(torch.minimum(ratio * advantages, clipped * advantages) * weights).sum()
    with torch.no_grad():
        torch.stack([(ratio != clipped).float().mean(), (ratio - 1 - difference).mean(), ratio.min(), ratio.max()])
    return loss


def has_liger() -> bool:
    """Liger-Kernel is installed, and there is a GPU for it."""
    return importlib.util.find_spec("liger_kernel") is not None and torch.cuda.is_available()


def liger_linear(*, float32_sums: bool = False, logit_bytes: int | None = None) -> Function:
    """Liger's fused linear cross entropy: no entropy, its gradients in forward.

    As it comes it adds the weight's gradient up in the weight's dtype, over chunks of few rows.
    """
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Operation

    parameters = dict(list(inspect.signature(Operation.forward).parameters.items())[4:])

    def call(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        options = {name: parameter.default for name, parameter in parameters.items()}
        if float32_sums:
            options["accum_dtype"] = torch.float32
        if logit_bytes is not None:
            options["chunk_mem_const"] = max(1, round(logit_bytes / 2 / hidden.numel()))
        result = Operation.apply(hidden, weight, targets, *options.values())
        return result[0] if isinstance(result, tuple) else result

    return call


def torch_linear(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """PyTorch's own linear cross entropy (from 2.13 on): no entropy, no vocabulary shards."""
    return F.linear_cross_entropy(hidden, weight, targets)


def torch_rmsnorm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """PyTorch's own norm, `F.rms_norm`."""
    return F.rms_norm(x, weight.shape, weight, 1e-6)


def liger_rmsnorm() -> Function:
    """Liger's, with its casts of Llama."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    return lambda x, weight: LigerRMSNormFunction.apply(x, weight, 1e-6, 0.0, "llama", False)


def liger_swiglu() -> Function:
    """Liger's, on gate and up apart."""
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return lambda x: LigerSiLUMulFunction.apply(*(part.contiguous() for part in x.chunk(2, -1)))


def megatron_cross_entropy() -> Function:
    """Megatron-core's fused vocabulary-parallel cross entropy on a group of one: no entropy, gradients always bf16."""
    from megatron.core.fusions.fused_cross_entropy import fused_vocab_parallel_cross_entropy

    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    group = dist.group.WORLD
    # it works in place, on [sequence, batch, vocabulary]
    return lambda logits, targets, _temperature: fused_vocab_parallel_cross_entropy(
        logits[:, None] * 1, targets[:, None], group
    )
