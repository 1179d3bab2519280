"""The record of one step: what `metrics.jsonl` holds and the step line shows."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from egrc_mega.methods.base import Method, is_right
from egrc_mega.training.schedule import Step
from egrc_mega.training.staleness import mean_lag, oldest_lag, version_number
from egrc_mega.training.update import UpdateMetrics
from egrc_mega.types import Grade, Group


def step_record(
    step: Step, method: Method, groups: Sequence[Group], update: UpdateMetrics, costs: dict[str, Any], version: str
) -> dict[str, Any]:
    """Shares are over all samples; reward and accuracy over the graded ones. `costs`: see `accounting`."""
    samples = [sample for group in groups for sample in group.samples]
    graded = [sample for sample in samples if sample.grade is not Grade.UNGRADED]
    kept = sum(a != 0.0 for row in method.advantages(groups) for a in row)
    num_output_tokens = sum(sample.length for sample in samples)
    completions = [sample.completion for sample in samples]
    measured = {name: value for name, value in asdict(update).items() if name != "work"}
    return {
        "step": step.index + 1,
        "total_steps": step.total,
        "stage": step.stage.name,
        "reward": fmean(map(method.reward, graded)) if graded else None,
        "accuracy": fmean(map(is_right, graded)) if graded else None,
        "length": num_output_tokens / len(samples),
        "well_formed": fmean(sample.well_formed for sample in samples),
        "kept": kept / len(samples),
        "ungraded": 1 - len(graded) / len(samples),
        "truncated": fmean(sample.completion.truncated for sample in samples),
        **measured,
        "updated": update.num_updates > 0,
        "temperature": step.stage.rollout.temperature,
        "weight_version": version,
        "groups": len(groups),
        "version_lag_max": oldest_lag(completions, version_number(version)),
        "version_lag_mean": mean_lag(completions, version_number(version)),
        "tokens": num_output_tokens,
        "tokens_per_s": num_output_tokens / costs["time_step_s"],
        **costs,
    }
