"""A static batch of requests on transformers with a KV cache: prefill once, then a token a row and step."""

import contextlib
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from egrc_mega.embedded.sampling import Drawn, SamplingParams, draw

ROWS = 16
"""Batches are filled up to a multiple of this. Measured with one thread: a row's logits are then bitwise the same in
any batch, while in batches of odd sizes the remainder of a matrix product is summed in another order."""
WIDTH = 32
"""Prompts are left-padded to a multiple of this: another padding would change the last bits of a row's logits."""
HIDDEN = torch.finfo(torch.float32).min


@dataclass(slots=True, eq=False)
class Request:
    """One sample in the making."""

    rid: str
    prompt_ids: list[int]
    params: SamplingParams
    stop_ids: frozenset[int]
    names_masks: bool = False
    """Keep what each token was drawn from: without `top_k` that is most of a large vocabulary."""
    future: "Future[Request]" = field(default_factory=Future)
    output_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    masks: list[list[int]] = field(default_factory=list)
    masked_logprobs: list[float] = field(default_factory=list)
    """See `sampling.Drawn`."""
    version_starts: list[tuple[str, int]] = field(default_factory=list)
    """(weight version, first output token sampled from it)."""
    finish_reason: dict[str, Any] | None = None
    num_retractions: int = 0
    uniforms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    created: float = field(default_factory=time.monotonic)

    def add(self, drawn: Drawn, version: str) -> None:
        """Append a sampled token and finish when it ends the response."""
        if not self.version_starts or self.version_starts[-1][0] != version:
            self.version_starts.append((version, len(self.output_ids)))
        self.output_ids.append(drawn.token)
        self.logprobs.append(drawn.logprob)
        if self.names_masks:
            self.masks.append(drawn.mask)
            self.masked_logprobs.append(drawn.masked_logprob)
        if drawn.token in self.stop_ids:
            self.finish({"type": "stop", "matched": drawn.token})
        elif len(self.output_ids) >= self.params.max_new_tokens:
            self.finish({"type": "length", "length": len(self.output_ids)})

    def finish(self, reason: dict[str, Any]) -> None:
        """Hand the result over."""
        self.finish_reason = reason
        with contextlib.suppress(InvalidStateError):  # whoever asked has gone
            self.future.set_result(self)

    @property
    def width(self) -> int:
        """Padded width of prompt and output so far."""
        return -(-(len(self.prompt_ids) + len(self.output_ids)) // WIDTH) * WIDTH


class DecodingBatch:
    """Requests of one width that started together. Rows beyond the requests are filler."""

    def __init__(self, model: PreTrainedModel, requests: list[Request], version: str) -> None:
        self.model, self.rows = model, requests
        self.version = version
        """Of the weights that the next tokens' logits are from: older than the model's right after an update."""
        num_rows, width = _filled(len(requests)), requests[0].width
        ids_BT = torch.zeros(num_rows, width, dtype=torch.long)
        lengths = []
        for i, request in enumerate(requests):
            text = request.prompt_ids + request.output_ids
            ids_BT[i, width - len(text) :] = torch.tensor(text)
            lengths.append(len(text))
        self.positions_B = torch.tensor(lengths + [1] * (num_rows - len(requests)))
        column_T = torch.arange(width)
        is_text_BT = column_T >= width - self.positions_B[:, None]
        is_causal_TT = torch.ones(width, width, dtype=torch.bool).tril()
        mask_B1TT = torch.where(is_causal_TT & is_text_BT[:, None], 0.0, HIDDEN)[:, None]
        self.key_mask_BT = torch.where(is_text_BT, 0.0, HIDDEN)
        self.cache = DynamicCache(config=model.config)
        first_positions_BT = (column_T - (width - self.positions_B)[:, None]).clamp(min=0)
        self.logits_BV = self._forward(ids_BT, first_positions_BT, mask_B1TT)

    def step(self, version: str) -> int:
        """Sample a token for every live row, compute the logits of the next one; returns how many were sampled.

        Args:
            version: of the weights that the model has now.
        """
        live = [i for i, request in enumerate(self.rows) if request.finish_reason is None]
        tokens_B1 = torch.zeros(len(self.positions_B), 1, dtype=torch.long)
        if live:
            requests = [self.rows[i] for i in live]
            uniforms = np.array([r.uniforms[len(r.output_ids)] for r in requests])
            sampled = draw(self.logits_BV[live], [r.params for r in requests], uniforms)
            tokens_B1[live, 0] = torch.tensor([drawn.token for drawn in sampled])
            for request, drawn in zip(requests, sampled, strict=True):
                request.add(drawn, self.version)
        if self.is_done:
            return len(live)
        tokens_B1 = self._compact(tokens_B1)
        self.key_mask_BT = torch.cat([self.key_mask_BT, torch.zeros(len(tokens_B1), 1)], dim=1)
        self.logits_BV = self._forward(tokens_B1, self.positions_B[:, None], self.key_mask_BT[:, None, None])
        self.positions_B, self.version = self.positions_B + 1, version
        return len(live)

    @property
    def is_done(self) -> bool:
        """True when no row is live."""
        return all(request.finish_reason is not None for request in self.rows)

    def _compact(self, tokens_B1: torch.Tensor) -> torch.Tensor:
        """Drop finished rows once they are a quarter of the batch."""
        live = [i for i, request in enumerate(self.rows) if request.finish_reason is None]
        num_rows = _filled(len(live))
        if num_rows > 0.75 * len(self.positions_B):
            return tokens_B1
        filler = [i for i in range(len(self.positions_B)) if i not in set(live)]
        kept = torch.tensor(live + filler[: num_rows - len(live)])
        self.rows = [self.rows[i] for i in live]
        self.cache.batch_select_indices(kept)
        self.key_mask_BT, self.positions_B = self.key_mask_BT[kept], self.positions_B[kept]
        return tokens_B1[kept]

    def _forward(self, ids_BT: torch.Tensor, positions_BT: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits of the last column, [B, V]. The mask is given ready-made: building it cost more than the model."""
        output = self.model(
            input_ids=ids_BT,
            position_ids=positions_BT,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


def _filled(num_requests: int) -> int:
    return -(-num_requests // ROWS) * ROWS
