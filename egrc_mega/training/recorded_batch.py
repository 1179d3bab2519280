"""What a stage's method would pay for a batch that was recorded: nothing is sampled and nothing is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from egrc_mega.config.config import Config
from egrc_mega.errors import ConfigError, DataError
from egrc_mega.methods.method import Method, build_method
from egrc_mega.methods.recorded import recorded_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample
from egrc_mega.observe.rollouts import read_rollouts
from egrc_mega.sampling_mask import SamplingMask
from egrc_mega.sections.stage import StageSection
from egrc_mega.types import Ask, Completion, FinishReason, Grade, Group, Problem, Sample


@dataclass(frozen=True, slots=True, eq=False)
class RecordedBatch:
    """Groups, and what is known of the step that they are from."""

    groups: list[Group]
    step: int = 0
    """Within its stage, from 0."""
    stage: str | None = None
    """The label of the stage."""
    state: Mapping[str, Any] | None = None
    """The method's, when it gave the step's credits; None: the state that a stage begins with."""


def read_batch(path: Path, name: str = "groups") -> RecordedBatch:
    """A recorded batch of JSON, of which `name` says which list of groups, or a step's rollout file of a run.

    Raises:
        DataError: the file does not exist or is neither.
        RunError: the rollout file cannot be read.
    """
    if not path.is_file():
        raise DataError(f"--batch: {path} does not exist; give a recorded batch or a rollouts/step_*.safetensors")
    if path.suffix == ".safetensors":
        return _of_run(path)
    try:
        batch = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError(f"--batch: {path} is not JSON: {error}") from error
    if not isinstance(batch, dict):
        raise DataError(f"--batch: {path} must hold an object with a list of groups, found {type(batch).__name__}")
    return RecordedBatch(recorded_groups(batch, name), step=int(batch.get("step") or 0))


def _of_run(path: Path) -> RecordedBatch:
    number = path.stem.removeprefix("step_")
    if path.parent.name != "rollouts" or not number.isdigit():
        raise DataError(f"--batch: {path} is no rollout file of a run (rollouts/step_000001.safetensors); give one")
    stored = read_rollouts(path.parent.parent, int(number))
    step = stored.step - 1 if stored.step_in_stage is None else stored.step_in_stage
    return RecordedBatch([recorded_group(group) for group in stored.groups], step, stored.stage, stored.state)


def recorded_group(group: StoredGroup) -> Group:
    """A stored group as methods see it; its samples have no prompts."""
    problem = Problem(key=group.key, text=group.prompt, answer=group.answer, facts=group.facts)
    return Group(problem=problem, samples=tuple(_sample(sample, problem) for sample in group.samples))


def _sample(sample: StoredSample, problem: Problem) -> Sample:
    completion = Completion(
        rid="",
        output_ids=sample.output_ids,
        logprobs=sample.logprobs,
        sampled=sample.sampled,
        sampling_mask=_mask(sample),
        finish_reason=FinishReason.LENGTH if sample.truncated else FinishReason.STOP,
        weight_versions=sample.versions,
    )
    return Sample(
        problem=problem,
        ask=Ask(tag=sample.tag, max_new_tokens=sample.max_new_tokens, facts=sample.facts),
        prompt_ids=np.zeros(1, np.int32),
        completion=completion,
        text=sample.text,
        grade=Grade(sample.grade),
        well_formed=sample.well_formed,
        num_forced=_num_forced(sample.sampled),
        think_length=sample.think_length,
        token_ends=sample.token_ends,
        entropies=None if sample.entropies is None else sample.entropies.astype(np.float32),
        reference_kl=sample.reference_kl,
    )


def _mask(sample: StoredSample) -> SamplingMask | None:
    if sample.mask_counts is None or sample.mask_ids is None:
        return None
    return SamplingMask(sample.mask_ids, sample.mask_counts)


def _num_forced(sampled: NDArray[np.bool_]) -> int:
    """Tokens before the first that the policy sampled: nobody but the method writes there."""
    return int(np.argmax(sampled)) if sampled.any() else len(sampled)


def payment(config: Config, batch: RecordedBatch, label: str | None = None) -> dict[str, list[list[Any]]]:
    """Rewards and advantages of a batch under a stage's method.

    The state of the method is the batch's own where it is known and the stage is the one that the batch is from, else
    the state that a stage begins with.

    An advantage that differs from token to token is given as the median, and whole under `token_advantages`, a list
    for each such sample and None for the others.

    Args:
        label: of the stage; None: the batch's own stage if the configuration has it, else the first.

    Raises:
        ConfigError: there is no stage of that label.
        DataError: the method needs a fact that the batch lacks, or cannot read the state that the run's method had.
    """
    stage = _stage(config, batch, label)
    method = build_method(stage)
    view = View(step=batch.step, state=_state(method, stage, batch), seed=config.run.seed)
    rows = method.credit(batch.groups, view)
    paid: dict[str, list[list[Any]]] = {
        "rewards": [[credit.reward for credit in row] for row in rows],
        "advantages": [[_advantage(credit) for credit in row] for row in rows],
    }
    by_token = [[_of_each_token(credit) for credit in row] for row in rows]
    return paid | {"token_advantages": by_token} if any(map(any, by_token)) else paid


def _stage(config: Config, batch: RecordedBatch, label: str | None) -> StageSection:
    names = [stage.name for stage in config.stages]
    if label is not None and label not in names:
        raise ConfigError(f"--stage: there is no stage {label!r}, stages are {names}")
    wanted = label or batch.stage
    return config.stages[names.index(wanted)] if wanted in names else config.stages[0]


def _state(method: Method[Any, Any], stage: StageSection, batch: RecordedBatch) -> Any:
    if batch.state is None or stage.name != batch.stage:
        return method.State()
    try:
        return method.State.model_validate(batch.state)
    except ValidationError as error:
        raise DataError(
            f"--batch: the run's method had a state that {stage.method} of stage {stage.name} cannot read "
            f"({error.errors()[0]['msg']}); give the run's own config.yaml"
        ) from error


def _advantage(credit: Credit) -> float:
    """The median over the tokens, which is what all have where they share one; 0 where nothing is trained on."""
    values = np.sort(np.atleast_1d(np.asarray(credit.advantage, np.float64)))
    return float(values[len(values) // 2]) if credit.kept and len(values) else 0.0


def _of_each_token(credit: Credit) -> list[float] | None:
    """One number for each token where they differ, else None."""
    values: list[float] = np.atleast_1d(np.asarray(credit.advantage, np.float64)).tolist()
    return values if credit.kept and len(set(values)) > 1 else None
