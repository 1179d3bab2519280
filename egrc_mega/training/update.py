"""The optimizer steps of one batch, with the log-prob check before the first of them. Collective."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from egrc_kernels.policy_loss import kl_estimate

from egrc_mega.policy.engine import Policy, UpdateResult
from egrc_mega.policy.flops import Work
from egrc_mega.policy.learning_rate import learning_rate
from egrc_mega.policy.packing import Baselines, joined
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.sections.policy import PolicySection
from egrc_mega.sections.stage import StageSection
from egrc_mega.training.batch import Batch
from egrc_mega.training.gate import LogprobGate
from egrc_mega.training.mismatch import Mismatch, mismatch_of
from egrc_mega.types import TrainSample

Scored = tuple[Sequence[TrainSample], TokenStats]


@dataclass(frozen=True, slots=True)
class UpdateMetrics:
    """What the updates of a batch showed; None where there was nothing to measure. Equal on every rank."""

    loss: float | None
    grad_norm: float | None
    num_updates: int
    logprob_diff_median: float | None
    logprob_diff_p99: float | None
    logprob_diff_max: float | None
    logprob_diff_mean: float | None
    logprob_compared: float | None
    """Share of the sampled tokens that the log-prob gate could compare."""
    lr: float | None
    """Of the last update; None in a step without one."""
    work: Work
    """What the policy computed, scoring included, over all ranks."""
    kl: float | None
    """To the reference model (k3); None where the loss does not look at it."""
    clip_fraction: float | None
    """Share of the trained tokens whose ratio the clip held back."""
    approx_kl: float | None
    """Of the policy that the ratio divides by, the one before the batch's first update unless `old_logprobs` says
    another, to the present one (k3), over the trained tokens."""
    ratio_min: float | None
    ratio_max: float | None
    tis_weight: float | None
    """Mean weight of truncated importance sampling over the trained tokens; 1 without `tis_cap`."""
    masked_fraction: float | None
    """Share of the trained tokens that `token_mask` or `sequence_mask` takes out of the policy's term."""
    masked_sequence_fraction: float | None
    """Share of the responses with a trained token that `sequence_mask` takes out."""
    ess_tokens: float | None
    ess_sequences: float | None
    mismatch_kl: float | None
    """These three: see `mismatch.Mismatch`."""
    entropy: float | None
    entropy_rollout: float | None
    entropy_kept: float | None
    """Over the samples with an advantage, whatever else a KL term holds."""
    entropy_rollout_kept: float | None


def run_updates(
    policy: Policy, batch: Batch, stage: StageSection, section: PolicySection, index_in_stage: int
) -> UpdateMetrics:
    """Score what has no advantage, then one optimizer step per update of the batch.

    Args:
        index_in_stage: of the step, from 0; the learning rate follows from it.

    Raises:
        PolicyError: the server's and the trainer's log-probs differ by more than a bound; no weight has moved.
    """
    temperature = stage.rollout.temperature
    per_step = stage.optim.num_updates_per_rollout
    first, total = index_in_stage * per_step, stage.steps * per_step
    rates = [learning_rate(stage.optim, first + i, total) for i in range(max(1, len(batch.updates)))]
    work_before = policy.work
    gate = LogprobGate(section, policy.dtype)
    scored: list[Scored] = []

    def note(samples: Sequence[TrainSample], stats: TokenStats) -> None:
        gate.compare(samples, stats)
        scored.append((samples, stats))

    if section.score_dropped and batch.dropped:
        note(batch.dropped, policy.score(batch.dropped, temperature))
    kept = [sample for update in batch.updates for sample in update]
    reference = policy.score_reference(kept, temperature) if kept and stage.loss.needs_reference else None
    results: list[UpdateResult] = []
    if len(batch.updates) == 1:
        # its own forward is the score, and the ratio is 1
        baselines, inspect = Baselines(reference=reference), partial(note, kept)
        results.append(policy.update(kept, temperature, stage.loss, rates[0], baselines, inspect))
    elif kept:
        stats = policy.score(kept, temperature)
        note(kept, stats)
        sizes = [sum(len(sample.output_ids) for sample in update) for update in batch.updates]
        parts = Baselines(stats.logprobs, reference).split(sizes)
        for update, baselines, rate in zip(batch.updates, parts, rates, strict=True):
            results.append(policy.update(update, temperature, stage.loss, rate, baselines))
    metrics = _metrics(results, gate, batch, scored, _kl(kept, scored, reference))
    return replace(metrics, lr=rates[-1] if results else None, work=policy.work - work_before)


def _kl(kept: list[TrainSample], scored: list[Scored], reference: torch.Tensor | None) -> float | None:
    """Mean of k3 to the reference over the tokens that the policy sampled, before the updates."""
    if reference is None:
        return None
    stats = scored[-1][1]
    return float(kl_estimate((stats.logprobs - reference)[_sampled(kept)], "k3").mean())


def _metrics(
    results: list[UpdateResult], gate: LogprobGate, batch: Batch, scored: list[Scored], kl: float | None
) -> UpdateMetrics:
    kept = [part for part in scored if part[0] is not batch.dropped]
    # without the dropped samples a mean over "all" would be a mean over the kept ones under a wrong name
    everything = scored if len(scored) > len(kept) or not batch.dropped else []
    return UpdateMetrics(
        loss=math.fsum(r.loss for r in results) / len(results) if results else None,
        grad_norm=max(r.grad_norm for r in results) if results else None,
        num_updates=len(results),
        **gate.metrics(),
        lr=None,
        work=Work(),
        kl=kl,
        **_ratio_metrics(results, batch),
        **asdict(mismatch_of(*kept[-1]) if kept else Mismatch()),
        entropy=_mean(everything, "entropies"),
        entropy_rollout=_mean(everything, "entropies_rollout"),
        entropy_kept=_mean(kept, "entropies", _taught),
        entropy_rollout_kept=_mean(kept, "entropies_rollout", _taught),
    )


def _ratio_metrics(results: list[UpdateResult], batch: Batch) -> dict[str, float | None]:
    """Over all updates of the batch. The ratio is the token's or, with sequence ratios, its sequence's."""
    num_tokens = sum(float(r.metrics.num_tokens) for r in results)
    if not num_tokens:
        return dict.fromkeys(_OF_THE_LOSS)
    num_sequences = sum(bool(sample.loss_weights.any()) for update in batch.updates for sample in update)
    num_masked_sequences = sum(float(r.metrics.num_masked_sequences) for r in results)
    return {
        "clip_fraction": sum(float(r.metrics.num_clipped) for r in results) / num_tokens,
        "approx_kl": sum(float(r.metrics.approx_kl) for r in results) / num_tokens,
        "ratio_min": min(float(r.metrics.ratio_min) for r in results),
        "ratio_max": max(float(r.metrics.ratio_max) for r in results),
        "tis_weight": sum(float(r.metrics.tis_weight) for r in results) / num_tokens,
        "masked_fraction": sum(float(r.metrics.num_masked) for r in results) / num_tokens,
        "masked_sequence_fraction": num_masked_sequences / max(1, num_sequences),
    }


_OF_THE_LOSS = (
    "clip_fraction",
    "approx_kl",
    "ratio_min",
    "ratio_max",
    "tis_weight",
    "masked_fraction",
    "masked_sequence_fraction",
)


def _mean(
    scored: Sequence[Scored], name: str, mask: Callable[[Sequence[TrainSample]], torch.Tensor] | None = None
) -> float | None:
    """Mean over the tokens that the policy sampled, or over those of another mask."""
    values = [getattr(stats, name)[(mask or _sampled)(samples)] for samples, stats in scored]
    return float(torch.cat(values).mean()) if any(len(part) for part in values) else None


def _taught(samples: Sequence[TrainSample]) -> torch.Tensor:
    """Of the sampled tokens those of samples with an advantage: under a KL term the others are trained on as well."""
    return _sampled(samples) & torch.from_numpy(
        np.concatenate([np.full(len(sample.output_ids), sample.advantages.any()) for sample in samples])
    )


def _sampled(samples: Sequence[TrainSample]) -> torch.Tensor:
    """Flat over all outputs of the samples: whether the policy sampled the token."""
    return torch.from_numpy(joined(samples, "sampled", np.bool_))
