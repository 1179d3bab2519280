"""The size of single tokens' gradients at the parameters, by a backward pass for each: of a sample of tokens."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from egrc_mega.convert.hf_model import HfModel, hidden_states, output_weight
from egrc_mega.types import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class DrawnTokens:
    """Some tokens of one response, drawn to be looked at more closely."""

    prompt_ids: IntArray
    output_ids: IntArray
    places: tuple[int, ...]
    """Indices into `output_ids`, ascending."""
    rows: tuple[int, ...]
    """Where the tokens stand among all that were measured."""


@contextmanager
def only_these_learn(model: HfModel, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Within, gradients reach these parameters alone, so the graph begins at the first of them."""
    chosen = {id(parameter) for parameter in parameters}
    before = [parameter.requires_grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    try:
        yield
    finally:
        for parameter, required in zip(model.parameters(), before, strict=True):
            parameter.requires_grad_(required)


def output_logprobs(
    model: HfModel, prompt_ids: IntArray, output_ids: IntArray, places: Sequence[int] | None = None
) -> torch.Tensor:
    """The log-probs of the output tokens at these places (None: of all), with the graph that leads to them."""
    ids_T = torch.from_numpy(np.concatenate([prompt_ids, output_ids]).astype(np.int64))
    wanted = torch.arange(len(output_ids)) if places is None else torch.tensor(list(places))
    # what follows the last token that is wanted has no part in it
    last = len(prompt_ids) + int(wanted.max())
    hidden_TH, _cache = hidden_states(model, ids_T[:last])
    logits = hidden_TH[wanted + len(prompt_ids) - 1] @ output_weight(model).T
    return torch.log_softmax(logits, -1).gather(-1, ids_T[wanted + len(prompt_ids), None])[:, 0]


def gradient_sizes(model: HfModel, drawn: DrawnTokens, parameters: Sequence[torch.nn.Parameter]) -> NDArray[np.float64]:
    """|| d log p_a / d parameters || of each token drawn, over all of these parameters together, float64[places]."""
    with only_these_learn(model, parameters):
        logprobs = output_logprobs(model, drawn.prompt_ids, drawn.output_ids, drawn.places)
        sizes = []
        for logprob in logprobs:
            gradients = torch.autograd.grad(logprob, parameters, retain_graph=True, allow_unused=True)
            squares = [float(gradient.double().pow(2).sum()) for gradient in gradients if gradient is not None]
            sizes.append(np.sqrt(sum(squares)))
    return np.array(sizes, np.float64)
