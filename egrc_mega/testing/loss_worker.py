"""What the ranks of the loss tests do: two optimizer steps on one batch, for every option of the loss."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from egrc_mega.config.schema import LossSection, MegatronSection, PolicySection
from egrc_mega.policy import distributed
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.packing import Baselines
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.types import TrainSample

TEMPERATURE = 0.8
LEARNING_RATE = 3e-3
ADAM: dict[str, Any] = {"adam_eps": 1e-2, "weight_decay": 0.0, "clip_grad": 1.0}
"""A large epsilon: the step is smooth in the gradient, so float32 and float64 stay together."""


def loss_batch(seed: int = 0) -> list[TrainSample]:
    """Ragged samples of which some have no advantage, with log-probs of a server that is a little off."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for sample in ragged_samples(seed=seed):
        noise = 0.3 * torch.randn(len(sample.output_ids), generator=generator)
        # the environment's tokens, and one that was sampled from older weights
        logprobs = [
            math.nan if not sampled or t == 5 else -3.5 + float(noise[t]) for t, sampled in enumerate(sample.sampled)
        ]
        samples.append(replace(sample, rollout_logprobs=np.array(logprobs, np.float32)))
    return samples


def two_updates(model: Path, reference: Path, megatron: dict[str, Any], losses: list[LossSection], out: Path) -> None:
    """For each loss: losses and weights of two steps; `reference` has the weights that the KL term refers to."""
    distributed.initialize(MegatronSection(**megatron), timeout_s=60)
    section = MegatronSection(**megatron, **ADAM)
    samples = loss_batch()
    for number, loss in enumerate(losses):
        policy = Policy(model, section, PolicySection(max_tokens_per_micro_batch=150), keeps_reference=True)
        other = Policy(reference, section, PolicySection(max_tokens_per_micro_batch=150), keeps_reference=True)
        # as if the run had begun with `reference` and come to `model`
        assert policy.reference is not None and other.reference is not None
        policy.reference.kept = other.reference.kept
        result: dict[str, torch.Tensor] = {}
        before = policy.score(samples, TEMPERATURE)
        kept = policy.score_reference(samples, TEMPERATURE)
        after = policy.score(samples, TEMPERATURE)
        result["live"] = other.score(samples, TEMPERATURE).logprobs
        result["restored"] = torch.tensor(torch.equal(before.logprobs, after.logprobs))
        result["reference"] = kept
        baselines = Baselines(old=before.logprobs, reference=kept)
        values = [policy.update(samples, TEMPERATURE, loss, LEARNING_RATE, baselines).loss for _ in range(2)]
        result["losses"] = torch.tensor(values, dtype=torch.float64)
        result |= {f"weight/{name}": weight.clone() for name, weight in policy.export_hf()}
        if distributed.is_rank_0():
            save_file({name: tensor.contiguous() for name, tensor in result.items()}, out / f"{number}.safetensors")
    distributed.finalize()
