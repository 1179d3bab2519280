"""Sampling parameters, and one vectorised draw for all rows of a batch."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

GREEDY_BELOW = 1e-6
UNSUPPORTED = ("n", "min_p", "min_new_tokens", "frequency_penalty", "presence_penalty", "repetition_penalty")
"""Taken at the values that change nothing, which are their defaults, and refused at any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """The subset of SGLang's sampling_params that RL rollouts use, with SGLang's defaults."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop_token_ids: tuple[int, ...] = ()
    sampling_seed: int = 42
    ignore_eos: bool = False
    n: int = 1
    min_p: float = 0.0
    min_new_tokens: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> "SamplingParams":
        """Check a request's parameters.

        Raises:
            ValueError: an unknown key or a value out of range.
        """
        if not isinstance(raw, dict):
            raise TypeError(f"sampling_params is {raw!r:.40}; give an object")
        unknown = raw.keys() - set(cls.__slots__)
        if unknown:
            raise ValueError(f"unknown sampling parameter {sorted(unknown)[0]!r}, known are {sorted(cls.__slots__)}")
        given = {key: value for key, value in raw.items() if value is not None}
        params = cls(**{**given, "stop_token_ids": tuple(given.get("stop_token_ids", ()))})
        _require(isinstance(params.max_new_tokens, int) and params.max_new_tokens >= 0, "max_new_tokens", params)
        _require(isinstance(params.temperature, int | float) and params.temperature >= 0, "temperature", params)
        _require(isinstance(params.top_p, int | float) and 0 < params.top_p <= 1, "top_p", params)
        _require(isinstance(params.top_k, int) and (params.top_k == -1 or params.top_k >= 1), "top_k", params)
        _require(all(isinstance(i, int) for i in params.stop_token_ids), "stop_token_ids", params)
        _require(isinstance(params.sampling_seed, int) and params.sampling_seed >= 0, "sampling_seed", params)
        for name in UNSUPPORTED:
            neutral = cls.__dataclass_fields__[name].default
            if getattr(params, name) != neutral:
                raise ValueError(f"sampling parameter {name} is not supported by this server; send {neutral!r}")
        return params

    @property
    def is_truncated(self) -> bool:
        """Tokens are drawn from a part of the vocabulary."""
        return self.is_greedy or self.top_p < 1 or self.top_k != -1

    @property
    def is_greedy(self) -> bool:
        """Temperature zero: the likeliest token, with log-probs at temperature 1."""
        return self.temperature < GREEDY_BELOW

    def uniforms(self) -> np.ndarray:
        """[max_new_tokens] draws in [0, 1): one for each token, from the request's own generator."""
        return np.random.Generator(np.random.Philox(key=self.sampling_seed)).random(max(1, self.max_new_tokens))


def _require(is_good: bool, name: str, params: SamplingParams) -> None:
    if not is_good:
        raise ValueError(f"sampling parameter {name} is {getattr(params, name)!r}, which is out of range")


class Drawn(NamedTuple):
    """A token, and how likely it was."""

    token: int
    logprob: float
    """log softmax(logits / temperature), before any truncation."""
    kept_V: torch.Tensor | None
    """bool[V]: what it was drawn from, itself included; None: the whole vocabulary."""
    masked_logprob: float
    """Among what it was drawn from."""

    @property
    def mask(self) -> list[int]:
        """The ids that it was drawn from; empty where that was the whole vocabulary."""
        return [] if self.kept_V is None else self.kept_V.nonzero()[:, 0].tolist()


def draw(logits_BV: torch.Tensor, params: list[SamplingParams], uniforms_B: np.ndarray) -> list[Drawn]:
    """One token a row by inverse CDF. Each row's result depends on that row alone."""
    temperature_B = torch.tensor([1.0 if p.is_greedy else float(p.temperature) for p in params])
    logprob_BV = torch.log_softmax(logits_BV.float() / temperature_B[:, None], dim=-1)
    weight_BV, kept_BV = logprob_BV.double().exp(), None
    if any(p.top_p < 1 or p.top_k != -1 for p in params):
        kept_BV = _kept(weight_BV, params)
        weight_BV = weight_BV * kept_BV
    cdf_BV = weight_BV.cumsum(-1)
    target_B = torch.from_numpy(uniforms_B) * cdf_BV[:, -1]
    token_B = (cdf_BV <= target_B[:, None]).sum(-1).clamp(max=logits_BV.shape[1] - 1)
    greedy_B = torch.tensor([p.is_greedy for p in params])
    if greedy_B.any():
        token_B = torch.where(greedy_B, logprob_BV.argmax(-1), token_B)
        is_token_BV = torch.arange(logits_BV.shape[1]) == token_B[:, None]
        kept_BV = torch.where(greedy_B[:, None], is_token_BV, True if kept_BV is None else kept_BV)
    logprob_B = logprob_BV.gather(1, token_B[:, None])[:, 0]
    if kept_BV is None:
        return [Drawn(token, lp, None, lp) for token, lp in zip(token_B.tolist(), logprob_B.tolist(), strict=True)]
    masked_B = logprob_B - logprob_BV.where(kept_BV, -torch.inf).logsumexp(-1)
    kept = [kept_V if p.is_truncated else None for kept_V, p in zip(kept_BV, params, strict=True)]
    return [Drawn(*each) for each in zip(token_B.tolist(), logprob_B.tolist(), kept, masked_B.tolist(), strict=True)]


def _kept(weight_BV: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    """The nucleus and the top-k of each row, as a boolean mask; the likeliest token is always kept."""
    vocab_size = weight_BV.shape[1]
    top_p_B = torch.tensor([p.top_p for p in params], dtype=torch.float64)
    top_k_B = torch.tensor([vocab_size if p.top_k == -1 else min(p.top_k, vocab_size) for p in params])
    sorted_BV, order_BV = weight_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = (before_BV < top_p_B[:, None]) | (top_p_B[:, None] == 1)
    kept_BV &= torch.arange(vocab_size) < top_k_B[:, None]
    kept_BV[:, 0] = True
    return torch.zeros_like(kept_BV).scatter(1, order_BV, kept_BV)
