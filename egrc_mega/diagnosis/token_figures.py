"""What a model says of each token of a response: entropy, probability, and the size of the token's gradient.

With z the logits, p their softmax and a the token that was sampled (methods 4; 80/20 paper 2506.01939):

    H = - sum_j p_j log p_j                                   entropy of the position, in nats, at temperature 1
    d log p_a / d z = onehot(a) - p                           so its size needs no backward pass,
    d log p_a / d h = W^T (onehot(a) - p)                     nor at the last hidden state h, where z = W h

Shape suffixes: T tokens, V vocabulary, H hidden, R rows of one chunk of logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from egrc_mega.convert.hf_model import HfModel, hidden_states, output_weight
from egrc_mega.types import IntArray

FloatArray = NDArray[np.float64]
LOGITS_ELEMENTS = 2**24
"""Logits that are held at once: of 64 MiB in float32, and a few copies."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenFigures:
    """The O output tokens of a response; all float64[O]."""

    entropy: FloatArray
    """In nats."""
    probability: FloatArray
    """Of the token that was sampled."""
    gradient_logits: FloatArray
    """|| d log p_a / d z ||."""
    gradient_hidden: FloatArray
    """|| d log p_a / d h ||."""


def token_figures(model: HfModel, prompt_ids: IntArray, output_ids: IntArray, batch_tokens: int) -> TokenFigures:
    """The figures of a response's tokens; at most `batch_tokens` go through the model at once, over a KV cache."""
    ids_T = torch.from_numpy(np.concatenate([prompt_ids, output_ids]).astype(np.int64))
    first = len(prompt_ids) - 1
    parts = [
        _figures(hidden_RH, output_weight(model), targets_R)
        for hidden_RH, targets_R in _chunks(model, ids_T, first, batch_tokens)
    ]
    table = torch.cat(parts, dim=1) if parts else torch.zeros(4, 0, dtype=torch.float64)
    return TokenFigures(*table.numpy())


def _chunks(
    model: HfModel, ids_T: torch.Tensor, first: int, batch_tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Hidden states from position `first` on, each with the token that follows it."""
    num_rows = max(1, LOGITS_ELEMENTS // output_weight(model).shape[0])
    cache = None
    with torch.no_grad():
        for begin in range(0, len(ids_T) - 1, batch_tokens):
            end = min(begin + batch_tokens, len(ids_T) - 1)
            hidden_TH, cache = hidden_states(model, ids_T[begin:end], cache)
            for row in range(max(begin, first), end, num_rows):
                last = min(row + num_rows, end)
                yield hidden_TH[row - begin : last - begin], ids_T[row + 1 : last + 1]


def _figures(hidden_RH: torch.Tensor, weight_VH: torch.Tensor, targets_R: torch.Tensor) -> torch.Tensor:
    """[4, R] float64: the fields of `TokenFigures`."""
    logprobs_RV = torch.log_softmax(hidden_RH @ weight_VH.T, -1)
    chosen_R = logprobs_RV.gather(-1, targets_R[:, None])[:, 0]
    probs_RV = logprobs_RV.exp()
    entropy_R = torch.special.entr(probs_RV).sum(-1)
    # p - onehot(a): the element at a is minus the sum of the others, for p_a - 1 loses its digits near p_a = 1
    others_RV = probs_RV.scatter(-1, targets_R[:, None], 0.0)
    error_RV = others_RV.scatter(-1, targets_R[:, None], -others_RV.sum(-1, keepdim=True))
    sizes = error_RV.norm(dim=-1), (error_RV @ weight_VH).norm(dim=-1)
    return torch.stack([entropy_R, chosen_R.exp(), *sizes]).double()
