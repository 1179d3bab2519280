"""The record of one step: what `metrics.jsonl` holds, the step line shows and the stage's rules look at."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from egrc_mega.grading.verdicts import NO_ANSWER, Reason
from egrc_mega.methods.method import is_graded
from egrc_mega.methods.records import Credit
from egrc_mega.training.staleness import mean_lag, oldest_lag, staleness_histogram, version_number
from egrc_mega.training.turn import Turn
from egrc_mega.training.update import UpdateMetrics
from egrc_mega.types import Group, Sample


def step_record(
    turn: Turn,
    groups: Sequence[Group],
    credits: Sequence[Sequence[Credit]],
    update: UpdateMetrics,
    costs: dict[str, Any],
    total_steps: int,
) -> dict[str, Any]:
    """One row of `metrics.jsonl`.

    Args:
        costs: see `accounting`.
        total_steps: of the whole run, at most.
    """
    samples = [sample for group in groups for sample in group.samples]
    taught = [credit for row in credits for credit in row]
    num_output_tokens = sum(sample.length for sample in samples)
    completions = [sample.completion for sample in samples]
    current = version_number(turn.version)
    return {
        "step": turn.step + 1,
        "total_steps": total_steps,
        "stage": turn.stage.name,
        "method": turn.stage.method,
        "step_in_stage": turn.step_in_stage + 1,
        **_rewards(taught),
        **_samples(samples),
        **_reasons(samples),
        "kept": fmean(credit.kept for credit in taught),
        **{name: value for name, value in asdict(update).items() if name != "work"},
        "updated": update.num_updates > 0,
        "temperature": turn.stage.rollout.temperature,
        "weight_version": turn.version,
        "groups": len(groups),
        "version_lag_max": oldest_lag(completions, current),
        "version_lag_mean": mean_lag(completions, current),
        "groups_by_staleness": staleness_histogram(groups, current),
        "tokens": num_output_tokens,
        "tokens_per_s": num_output_tokens / costs["time_step_s"],
        **costs,
        **{f"method_{name}": value for name, value in turn.method.metrics(groups, credits, turn.view).items()},
    }


def _rewards(taught: Sequence[Credit]) -> dict[str, float | None]:
    """Means over the samples that were judged: of the reward, and of each of its terms."""
    rewards = [credit.reward for credit in taught if credit.reward is not None]
    names = sorted({name for credit in taught for name in credit.terms})
    terms = {name: [credit.terms[name] for credit in taught if name in credit.terms] for name in names}
    return {"reward": _mean(rewards)} | {f"reward_{name}": _mean(values) for name, values in terms.items()}


def _samples(samples: Sequence[Sample]) -> dict[str, float | None]:
    """Shares and lengths are over all samples; the accuracy is over the graded ones."""
    graded = [sample for sample in samples if is_graded(sample)]
    return {
        "accuracy": _mean([float(sample.right) for sample in graded]),
        "length": fmean(sample.length for sample in samples),
        "think_length": _mean([float(s.think_length) for s in samples if s.think_length is not None]),
        "well_formed": fmean(sample.well_formed for sample in samples),
        "ungraded": 1 - len(graded) / len(samples),
        "truncated": fmean(sample.completion.truncated for sample in samples),
    }


TROUBLES = (Reason.DOES_NOT_PARSE, Reason.UNEVALUATED, Reason.TOO_BIG, Reason.TOO_SLOW, Reason.DIED)
"""Reasons whose shares are always there, so that a curve of them has no gaps."""


def _reasons(samples: Sequence[Sample]) -> dict[str, float]:
    """Shares of the verdicts' reasons: `reason_equal_text` and so on; `no_answer`: nothing was found to judge."""
    counts = Counter(sample.reason for sample in samples if sample.reason)
    shares = {reason: counts[reason] / len(samples) for reason in sorted({*counts, *TROUBLES})}
    no_answer = sum(counts[reason] for reason in NO_ANSWER) / len(samples)
    return {"no_answer": no_answer} | {f"reason_{_key(reason)}": share for reason, share in shares.items()}


def _key(reason: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in reason)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
