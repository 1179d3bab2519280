"""The angle between the gradients of the two objectives on the same rollouts, at the last block's parameters.

Each objective's gradient is the sum over samples of A(y) times the mean of d log p over the tokens of y, which is the
loss that both are trained with (1/|o|, paper 3.1) at the weights that sampled.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from egrc_mega.convert.hf_model import last_block
from egrc_mega.diagnosis.gradients import only_these_learn, output_logprobs
from egrc_mega.diagnosis.objectives import Taught
from egrc_mega.diagnosis.token_part import TokenPart
from egrc_mega.types import IntArray, Problem

WAYS = ("same_rollouts", "entangled")


def gradient_angles(part: TokenPart, samples: Sequence[Taught]) -> dict[str, Any]:
    """The cosine of the two gradients, and their sizes, both ways (`objectives`); None where one is zero.

    Samples are left out that do not fit into one batch of the part's settings, or that come when as many tokens have
    been used as its settings allow; the result counts them.
    """
    parameters = last_block(part.model)
    size = sum(parameter.numel() for parameter in parameters)
    sums = torch.zeros(len(WAYS), 2, size)
    num_used = num_left_out = num_tokens = 0
    with only_these_learn(part.model, parameters):
        for each in samples:
            weights = torch.tensor([(each.compress, each.explore), each.entangled])
            if not bool(weights.any()) or not each.sample.length:
                continue
            prompt_ids = _prompt_ids(part, each)
            tokens = len(prompt_ids) + each.sample.length
            if tokens > part.settings.batch_tokens or num_tokens + tokens > part.settings.max_tokens:
                num_left_out += 1
                continue
            sums += weights[:, :, None] * _gradient(part, prompt_ids, each, parameters)
            num_used, num_tokens = num_used + 1, num_tokens + tokens
    angles = {way: _angle(*pair) for way, pair in zip(WAYS, sums, strict=True)}
    return {"num_samples": num_used, "num_left_out": num_left_out, **angles}


def _prompt_ids(part: TokenPart, each: Taught) -> IntArray:
    return part.renderer.prompt_ids(Problem(key="", text=each.sample.problem.text, answer=""))


def _gradient(
    part: TokenPart, prompt_ids: IntArray, each: Taught, parameters: Sequence[torch.nn.Parameter]
) -> torch.Tensor:
    """Of the mean log-prob of the tokens that the policy sampled, all parameters end to end."""
    completion = each.sample.completion
    logprobs = output_logprobs(part.model, prompt_ids, completion.output_ids)
    weights = torch.from_numpy(np.asarray(completion.sampled, np.float32)) / len(completion.output_ids)
    gradients = torch.autograd.grad(logprobs @ weights.to(logprobs.dtype), parameters, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return torch.cat([gradient.flatten() for gradient in flat]).float()


def _angle(a: torch.Tensor, b: torch.Tensor) -> dict[str, float | None]:
    sizes = float(a.norm()), float(b.norm())
    cosine = float(a.double() @ b.double()) / (sizes[0] * sizes[1]) if all(sizes) else None
    return {"cosine": cosine, "compress": sizes[0], "explore": sizes[1]}
