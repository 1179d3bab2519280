"""What a stage's method would pay for a batch that was recorded: nothing is sampled and nothing is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from egrc_mega.config.config import Config
from egrc_mega.errors import ConfigError, DataError
from egrc_mega.methods.method import build_method
from egrc_mega.methods.recorded import recorded_groups
from egrc_mega.methods.records import Credit, View
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample
from egrc_mega.observe.rollouts import read_rollouts
from egrc_mega.sections.stage import StageSection
from egrc_mega.types import Ask, Completion, FinishReason, Grade, Group, Problem, Sample


@dataclass(frozen=True, slots=True, eq=False)
class RecordedBatch:
    """Groups, the step from which they are, counted from 0, and the label of their stage where one is known."""

    groups: list[Group]
    step: int = 0
    stage: str | None = None


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
    return RecordedBatch([_group(group) for group in stored.groups], step=stored.step - 1, stage=stored.stage)


def _group(group: StoredGroup) -> Group:
    """A run keeps no facts of its problems: a method that needs one says which."""
    problem = Problem(key=group.key, text=group.prompt, answer=group.answer)
    return Group(problem=problem, samples=tuple(_sample(sample, problem) for sample in group.samples))


def _sample(sample: StoredSample, problem: Problem) -> Sample:
    completion = Completion(
        rid="",
        output_ids=sample.output_ids,
        logprobs=sample.logprobs,
        sampled=sample.sampled,
        finish_reason=FinishReason.LENGTH if sample.truncated else FinishReason.STOP,
        weight_versions=sample.versions,
    )
    return Sample(
        problem=problem,
        ask=Ask(tag=sample.tag),
        prompt_ids=np.zeros(1, np.int32),
        completion=completion,
        text=sample.text,
        grade=Grade(sample.grade),
        well_formed=sample.well_formed,
        entropies=None if sample.entropies is None else sample.entropies.astype(np.float32),
    )


def payment(config: Config, batch: RecordedBatch, label: str | None = None) -> dict[str, list[list[Any]]]:
    """Rewards and advantages of a batch under a stage's method with the state that it begins with.

    An advantage that differs from token to token is given as the median, and whole under `token_advantages`, a list
    for each such sample and None for the others.

    Args:
        label: of the stage; None: the batch's own stage if the configuration has it, else the first.

    Raises:
        ConfigError: there is no stage of that label.
        DataError: the method needs a fact that the batch lacks.
    """
    method = build_method(_stage(config, batch, label))
    view = View(step=batch.step, state=method.State(), seed=config.run.seed)
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


def _advantage(credit: Credit) -> float:
    """The median over the tokens, which is what all have where they share one; 0 where nothing is trained on."""
    values = np.sort(np.atleast_1d(np.asarray(credit.advantage, np.float64)))
    return float(values[len(values) // 2]) if credit.kept and len(values) else 0.0


def _of_each_token(credit: Credit) -> list[float] | None:
    """One number for each token where they differ, else None."""
    values: list[float] = np.atleast_1d(np.asarray(credit.advantage, np.float64)).tolist()
    return values if credit.kept and len(set(values)) > 1 else None
