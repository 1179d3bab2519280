"""Measures the weights that the servers hold on problems never trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from egrc_mega.config.schema import EvaluationSection
from egrc_mega.evaluation.statistics import bootstrap_interval, wilson_interval
from egrc_mega.methods.base import is_right
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Completion, Grade, Prompt, RolloutRequest, Sample, Sampling

NUM_SHOWN = 32
"""Responses kept for the report, the first problems of the file at every point."""

Generate = Callable[[Sequence[RolloutRequest]], list[Completion]]
Judge = Callable[[Sequence[tuple[Prompt, Completion]]], list[Sample]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table, without what needs the base (L-Acc), and some responses."""

    point: dict[str, Any]
    responses: list[dict[str, Any]]

    def line(self) -> str:
        """The row in words."""
        point = self.point
        accuracy = "-" if point["accuracy"] is None else f"{100 * point['accuracy']:.1f}%"
        return (
            f"evaluation of {point['stage']} at T {point['temperature']:g}: accuracy {accuracy}, "
            f"mean length {point['mean_length']:.1f} on {point['n']} problems"
        )


def evaluate(
    prompts: Sequence[Prompt],
    section: EvaluationSection,
    stage: str,
    stop_token_ids: tuple[int, ...],
    generate: Generate,
    judge: Judge,
) -> list[Measurement]:
    """One measurement for each temperature. Every stage gets the same seeds."""
    measurements = []
    for row, temperature in enumerate(section.temperatures):
        requests = _requests(prompts, section, stage, row, stop_token_ids)
        samples = judge(list(zip(prompts, generate(requests), strict=True)))
        measurements.append(_measure(stage, temperature, samples))
    return measurements


def _requests(
    prompts: Sequence[Prompt], section: EvaluationSection, stage: str, row: int, stop_token_ids: tuple[int, ...]
) -> list[RolloutRequest]:
    temperature = section.temperatures[row]
    sampling = Sampling(
        temperature=temperature,
        top_p=section.top_p,
        max_new_tokens=section.max_new_tokens,
        stop_token_ids=stop_token_ids,
    )
    return [
        RolloutRequest(
            rid=f"evaluate-{stage}-{row:02d}-{i:06d}",
            prompt_id=prompt.id,
            prompt_ids=prompt.token_ids,
            sampling=sampling,
            seed=derive_seed(section.seed, f"{temperature:g}", i),
        )
        for i, prompt in enumerate(prompts)
    ]


def _measure(stage: str, temperature: float, samples: Sequence[Sample]) -> Measurement:
    """Ungraded samples are left out of the accuracy and counted; a truncated one counts at its full length."""
    graded = [sample for sample in samples if sample.grade is not Grade.UNGRADED]
    num_right = sum(map(is_right, graded))
    lengths = [float(sample.length) for sample in samples]
    point = {
        "stage": stage,
        "temperature": temperature,
        "accuracy": num_right / len(graded) if graded else None,
        "accuracy_ci": wilson_interval(num_right, len(graded)),
        "mean_length": fmean(lengths),
        "mean_length_ci": bootstrap_interval(lengths),
        "n": len(samples),
        "num_ungraded": len(samples) - len(graded),
        "num_truncated": sum(sample.completion.truncated for sample in samples),
        "well_formed": fmean(sample.well_formed for sample in samples),
    }
    return Measurement(point, [_response(stage, temperature, sample) for sample in samples[:NUM_SHOWN]])


def _response(stage: str, temperature: float, sample: Sample) -> dict[str, Any]:
    return {
        "stage": stage,
        "temperature": temperature,
        "problem": sample.prompt.text,
        "gold": sample.prompt.answer,
        "text": sample.text,
        "grade": sample.grade.value,
        "length": sample.length,
        "truncated": sample.completion.truncated,
    }
