"""What a batch's forward passes leave behind, gathered over micro-batches and ranks."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from egrc_kernels.linear_logprob import LogprobStats
from egrc_kernels.policy_loss import LossMetrics
from megatron.core import parallel_state

from egrc_mega.policy.distributed import device
from egrc_mega.policy.packing import MicroBatch

NUM_SUMS = len(LossMetrics._fields) - 2
"""The last two metrics are extremes."""


@dataclass(frozen=True, slots=True)
class TokenStats:
    """Per-output-token float32 values, flat over all outputs of the samples in order; equal on every rank."""

    logprobs: torch.Tensor
    """Under softmax(logits / temperature), before the update."""
    entropies_rollout: torch.Tensor
    """Entropy at the rollout temperature, nats."""
    entropies: torch.Tensor
    """Entropy at temperature 1, nats."""


class PassSums:
    """Sums in one buffer for one all-reduce: loss, metrics, three values of every output token. Two extremes."""

    def __init__(self, num_outputs: int) -> None:
        self.num_outputs = num_outputs
        self.sums = torch.zeros(1 + NUM_SUMS + 3 * num_outputs, device=device())
        self.extremes = torch.full((2,), -torch.inf, device=device())
        """The lowest ratio with its sign turned, and the highest."""

    def add_loss(self, loss: torch.Tensor, metrics: LossMetrics) -> None:
        """Add a micro-batch's loss and metrics, on a rank of the last pipeline stage."""
        self.sums[0] += loss.detach()
        self.sums[1 : 1 + NUM_SUMS] += torch.stack(metrics[:NUM_SUMS])
        self.extremes = torch.maximum(self.extremes, torch.stack([-metrics.ratio_min, metrics.ratio_max]))

    def add(self, batch: MicroBatch, stats: LogprobStats) -> None:
        """Add the values of a micro-batch's output tokens, on a rank of the last pipeline stage."""
        if not batch.is_filler:
            values = torch.stack([stats.logprob_T, stats.entropy_T, stats.entropy_at_one_T]).detach()
            self.sums[1 + NUM_SUMS :].view(3, self.num_outputs)[:, batch.flat_R] = values

    def joined(self) -> "Joined":
        """The sums of all ranks, the same on every one of them. Collective."""
        if parallel_state.get_tensor_model_parallel_rank() != 0:
            self.sums.zero_()
        dist.all_reduce(self.sums)
        dist.all_reduce(self.extremes, dist.ReduceOp.MAX)
        sums, extremes = self.sums.cpu(), self.extremes.cpu()
        per_token = sums[1 + NUM_SUMS :].view(3, self.num_outputs)
        metrics = LossMetrics._make([*sums[1 : 1 + NUM_SUMS], -extremes[0], extremes[1]])
        return Joined(float(sums[0]), TokenStats(*per_token), metrics)


class Joined(NamedTuple):
    """What a pass over a batch came to, on the host; loss and metrics are empty sums for a pass without a loss."""

    loss: float
    stats: TokenStats
    metrics: LossMetrics
