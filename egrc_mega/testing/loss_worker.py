"""What the ranks of the loss tests do: two optimizer steps on one batch, for every option of the loss."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from egrc_mega.policy import distributed
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.packing import Baselines
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.gloo import HANG_LIMIT_S
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.types import TrainSample

TEMPERATURE = 0.8
LEARNING_RATE = 3e-3
ADAM: dict[str, Any] = {"adam_eps": 1e-2, "weight_decay": 0.0, "clip_grad": 1.0}
"""A large epsilon: the step is smooth in the gradient, so float32 and float64 stay together."""


LOSSES: dict[str, dict[str, Any]] = {
    "none": {"ratio": "none"},
    "token": {"ratio": "token"},
    "token, tight clips": {"ratio": "token", "eps_clip": 1e-3, "eps_clip_high": 2e-3},
    "token, dual clip": {"ratio": "token", "dual_clip": 1.5, "old_logprobs": "rollout"},
    "sequence": {"ratio": "sequence", "eps_clip": 1e-3, "eps_clip_high": 2e-3},
    "sequence, old from the rollout": {"ratio": "sequence", "old_logprobs": "rollout"},
    "old from the rollout": {"ratio": "token", "old_logprobs": "rollout"},
    "truncated importance sampling": {"ratio": "token", "tis_cap": 1.2},
    "no ratio, truncated importance sampling": {"ratio": "none", "tis_cap": 0.9},
    "importance of whole responses": {
        "ratio": "token",
        "tis_cap": 1.2,
        "tis_ratio": "product",
        "sequence_mask": (0.05, 20.0),
        "sequence_mask_ratio": "product",
    },
    "k1": {"ratio": "token", "kl_coef": 0.3, "kl_kind": "k1"},
    "k2": {"ratio": "token", "kl_coef": 0.3, "kl_kind": "k2"},
    "k3": {"ratio": "none", "kl_coef": 0.3, "kl_kind": "k3"},
    "capped": {"ratio": "capped", "eps_clip_high": 2e-3},
    "old from the reference": {"ratio": "token", "old_logprobs": "reference"},
    "sequence, old from the reference": {"ratio": "sequence", "old_logprobs": "reference", "eps_clip_high": 0.9},
    "entropy": {"ratio": "token", "entropy_coef": 0.3},
    "token mask": {"ratio": "token", "token_mask": (0.8, 1.25)},
    "IcePop": {"ratio": "none", "token_mask": (0.8, 1.25), "tis_cap": 1.25},
    "sequence mask": {"ratio": "token", "sequence_mask": (0.5, 2.0)},
    "sequence mask by the worst token": {
        "ratio": "sequence",
        "sequence_mask": (0.05, 4.0),
        "sequence_mask_ratio": "worst_token",
    },
    "every correction": {
        "ratio": "capped",
        "tis_cap": 1.2,
        "token_mask": (0.7, 1.5),
        "sequence_mask": (0.5, 2.0),
        "kl_coef": 0.2,
        "entropy_coef": 0.2,
    },
    "everything": {"ratio": "sequence", "kl_coef": 0.2, "tis_cap": 1.1, "dual_clip": 2.0, "old_logprobs": "rollout"},
}
"""Every option of the loss, alone and with others."""


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


def with_forced_tokens(samples: list[TrainSample]) -> list[TrainSample]:
    """The first token of every other sample is forced: trained though not sampled, its old log-prob the method's."""
    forced = []
    for i, sample in enumerate(samples):
        stated, sampled = np.full(len(sample.output_ids), np.nan, np.float32), sample.sampled.copy()
        stated[0], sampled[0] = -4.0 + 0.2 * i, False
        server = np.where(sampled, sample.rollout_logprobs, np.float32(np.nan))
        forced.append(
            sample if i % 2 else replace(sample, sampled=sampled, rollout_logprobs=server, old_logprobs=stated)
        )
    return forced


def two_updates(model: Path, reference: Path, megatron: dict[str, Any], names: list[str], out: Path) -> None:
    """For each loss of those names: losses, metrics and weights of two steps; the weights of the reference differ."""
    distributed.initialize(MegatronSection(**megatron), timeout_s=HANG_LIMIT_S)
    section = MegatronSection(**megatron, **ADAM)
    samples = loss_batch()
    for name in names:
        loss = LossSection(**LOSSES[name])
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
        updates = [policy.update(samples, TEMPERATURE, loss, LEARNING_RATE, baselines) for _ in range(2)]
        result["losses"] = torch.tensor([update.loss for update in updates], dtype=torch.float64)
        result["metrics"] = torch.stack(updates[0].metrics)
        result |= {f"weight/{key}": weight.clone() for key, weight in policy.export_hf()}
        if distributed.is_rank_0():
            save_file({key: tensor.contiguous() for key, tensor in result.items()}, out / f"{name}.safetensors")
    distributed.finalize()
