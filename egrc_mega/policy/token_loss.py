"""The policy loss as a function of a chunk of rows, for `egrc_kernels.linear_logprob.linear_token_loss`.

Where a token's loss depends on its own log-prob only, its gradient is known as soon as its logits are, and backward
need not compute those again. Ratios and masks of whole sequences need all rows first. The entropy's part is linear: its
slopes are known before there are logits, and `linear_token_loss` adds it (`entropy_slopes`).
"""

import numpy as np
import torch
from egrc_kernels.policy_loss import LossMetrics

from egrc_mega.policy.loss import LossRows, policy_loss
from egrc_mega.policy.packed import on_device
from egrc_mega.sections.stage import LossSection

BLOCK = 256
"""Rows that the loss kernel takes at a time: any number, for no sequence matters here."""


def takes_gradient_in_forward(loss: LossSection, device: torch.device, without_logits: bool = False) -> bool:
    """Whether the gradient is made with the logits: not on a CPU, where the sums would round otherwise.

    Args:
        without_logits: none may be in memory, as with a fused output layer: an entropy term would take them.
    """
    if without_logits and loss.entropy_coef:
        return False
    return not loss.needs_whole_responses and device.type == "cuda"


def entropy_slopes(rows: LossRows, loss: LossSection) -> torch.Tensor | None:
    """[R] derivative of the loss by each row's entropy; None where entropies do not count."""
    return -loss.entropy_coef * rows.weights_R if loss.entropy_coef else None


class TokenLoss:
    """Loss and slopes of the rows of one micro-batch, chunk by chunk, and the metrics of all chunks."""

    def __init__(self, rows: LossRows, loss: LossSection) -> None:
        self.rows, self.loss = rows, loss.model_copy(update={"entropy_coef": 0.0})
        self.parts: list[LossMetrics] = []
        self.boundaries: dict[int, torch.Tensor] = {}

    def __call__(self, logprobs_C: torch.Tensor, place: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the rows at `place`, and its derivative by each of their log-probs [C]."""
        live_C = logprobs_C.detach().requires_grad_()
        rows = self.rows.part(place, self._boundaries(len(live_C), logprobs_C.device))
        with torch.enable_grad():
            value, metrics = policy_loss(live_C, rows, self.loss)
            (slopes_C,) = torch.autograd.grad(value, live_C)
        self.parts.append(metrics)
        return value.detach(), slopes_C

    def metrics(self) -> LossMetrics:
        """Of all chunks together: sums, then two extremes."""
        if not self.parts:  # a context-parallel rank may hold no row
            self(self.rows.weights_R[:0], slice(0, 0))
        stacked = [torch.stack(values) for values in zip(*self.parts, strict=True)]
        return LossMetrics._make([*(values.sum() for values in stacked[:-2]), stacked[-2].min(), stacked[-1].max()])

    def _boundaries(self, num_rows: int, device: torch.device) -> torch.Tensor:
        """Blocks of the chunk: all chunks but the last have as many rows."""
        if num_rows not in self.boundaries:
            edges = np.append(np.arange(0, num_rows, BLOCK), num_rows)
            self.boundaries[num_rows] = on_device(edges.astype(np.int32), device)
        return self.boundaries[num_rows]
