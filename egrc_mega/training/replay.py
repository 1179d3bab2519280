"""Training from the rollouts that a run has stored, without servers, graders or data.

What is replayed is what the run was taught from: prompts, responses, verdicts and measurements of the trajectories. The
credits, and all that the trainer measures itself, are made anew; so under the run's own configuration the weights come
out bit by bit, and under another loss or optimizer one sees what that would have learned from the same responses.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from egrc_mega.config.config import Config
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.data.render import Renderer
from egrc_mega.errors import ConfigError, RunError
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample, StoredStep
from egrc_mega.observe.rollouts import FOLDER, in_words, read_step_file, stored_steps
from egrc_mega.observe.spans import span
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.start.process import first_version
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.stages.state import Position
from egrc_mega.training.collection import StepGroups
from egrc_mega.training.fates import Fates
from egrc_mega.training.recorded_batch import recorded_group
from egrc_mega.training.serving import Serving
from egrc_mega.training.turn import Turn
from egrc_mega.types import Group

OPTION = "--replay-rollouts"
GROUPS = "rollout.prompts_per_step"


class Unserved(Serving):
    """Of a replay: nobody generates, nobody grades, and nothing is evaluated."""

    def __init__(self, config: Config, renderer: Renderer, stack: ExitStack, note: Callable[[str], None]) -> None:
        self.renderer, self.tokenizer = renderer, renderer.tokenizer
        weights = FolderWeights(config.model.path, first_version())
        self.fleet = stack.enter_context(Fleet(config.rollout, weights, None, note))


class Replay:
    """Stands where `Ahead` does: gives each step the groups that were stored of it."""

    def __init__(self, config: Config, folder: Path, renderer: Renderer) -> None:
        """Look which steps there are.

        Args:
            folder: of rollouts, or of the run that has them.

        Raises:
            RunError: it has none, or not all that the stages need.
            ConfigError: it is this run's own.
        """
        self.config, self.renderer = config, renderer
        self.folder = folder / FOLDER if (folder / FOLDER).is_dir() else folder
        self.vocab_size = read_architecture(config.model.path).vocab_size
        if self.folder.resolve() == (config.run.dir / FOLDER).resolve():
            raise ConfigError(
                f"{OPTION}: {self.folder} is this run's own, which it would overwrite; set another run.dir"
            )
        self.steps = stored_steps(self.folder)
        if not self.steps:
            raise RunError(
                f"{OPTION}: {self.folder} holds no step_*.safetensors; give the folder of a run, or its rollouts"
            )
        if not any(stage.plateau for stage in config.stages):
            last = sum(stage.steps for stage in config.stages)
            self._require(range(self.steps[0], last + 1))

    def begin(self, turn: Turn, position: Position) -> None:
        """Nothing: what comes next is there."""

    def close(self) -> None:
        """Nothing: nobody samples here."""

    def collect(self, turn: Turn, position: Position) -> StepGroups:
        """The groups of a step, and the position that the run had after them.

        Raises:
            RunError: the step is missing, unreadable, or from another tokenizer or configuration.
        """
        with span("rollout"):
            self._require([turn.step + 1])
            stored = read_step_file(self.folder, turn.step + 1)
            how = self._checked(stored, turn)
            return StepGroups(
                groups=[_group(group) for group in stored.groups],
                position=Position.model_validate(how["position"]),
                counts=dict(how["counts"]),
                length_sampled=how["length_sampled"],
                fates=Fates.model_validate(how["fates"]) if how.get("fates") else None,
            )

    def _require(self, wanted: Any) -> None:
        missing = [step for step in wanted if step not in self.steps]
        if missing:
            raise RunError(
                f"{OPTION}: {self.folder} lacks the steps {in_words(missing)}; it holds {in_words(self.steps)}. Lower "
                f"the stages' steps, or keep more of a run with observe.rollouts_gib"
            )

    def _checked(self, stored: StoredStep, turn: Turn) -> Mapping[str, Any]:
        """How the step was sampled, when the turn may train on it."""
        problem = next(self._problems(stored, turn), None)
        if problem:
            raise RunError(f"{OPTION}: step {stored.step} of {self.folder} {problem}")
        assert stored.collected is not None
        return stored.collected

    def _problems(self, stored: StoredStep, turn: Turn) -> Iterator[str]:
        samples = [sample for group in stored.groups for sample in group.samples]
        if not stored.collected or any(sample.prompt_ids is None for sample in samples):
            yield "was written by an earlier version, which kept no prompts' tokens; make the rollouts anew"
            return
        before, now = stored.collected["sampled_with"], sampled_with(turn)
        if not stored.collected["counts"].get("refused_groups"):  # whose places stay empty
            before = before | {GROUPS: len(stored.groups)}
            now = now | {GROUPS: self.config.rollout.prompts_per_step}
        for name in now:
            if before.get(name) != now[name]:
                was = f"{name} was {before.get(name)!r} and is {now[name]!r}"
                yield f"was sampled under another configuration: {was}; set it to that"
        for group in stored.groups:
            yield from self._tokenizer_problems(group)

    def _tokenizer_problems(self, group: StoredGroup) -> Iterator[str]:
        """The text of a response, made of its tokens anew; of one in each group, for all have the same tokenizer."""
        sample = group.samples[0]
        ids = np.concatenate([sample.prompt_ids, *(each.output_ids for each in group.samples)])
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            found = f"token {int(ids.max())} of problem {group.key}"
            yield f"is another tokenizer's: {found} is not among {self.vocab_size}; set model.path to the run's model"
        elif self.renderer.decode(sample.output_ids) != sample.text:
            found = f"problem {group.key}'s first response reads otherwise"
            ours = f"that of {self.config.model.path}"
            yield f"is another tokenizer's: {found} with {ours}; set model.path to the run's model"


def sampled_with(turn: Turn) -> dict[str, Any]:
    """The fields that decide what is sampled in a step and for whom, by name; a replay must have the same."""
    stage = turn.stage
    fields = {f"stages.{stage.name}.rollout.{name}": v for name, v in stage.rollout.model_dump(mode="json").items()}
    return fields | {
        "the stage": stage.name,
        "the step within the stage": turn.step_in_stage + 1,
        f"stages.{stage.name}.method": stage.method,
        "run.seed": turn.view.seed,
    }


def _group(stored: StoredGroup) -> Group:
    group = recorded_group(stored)
    samples = zip(group.samples, stored.samples, strict=True)
    return replace(group, samples=tuple(_unmeasured(sample, own) for sample, own in samples))


def _unmeasured(sample: Any, stored: StoredSample) -> Any:
    """With its prompt and reason, and without what the trainer measures anew."""
    prompt = {"prompt_ids": stored.prompt_ids, "reason": stored.reason}
    return replace(sample, **prompt, entropies=None, reference_kl=None)


def collected_as(collected: StepGroups, turn: Turn) -> Mapping[str, Any]:
    """What a rollout file keeps for a replay."""
    return {
        "position": collected.position.model_dump(mode="json"),
        "counts": collected.counts,
        "length_sampled": collected.length_sampled,
        "fates": collected.fates.model_dump(mode="json") if collected.fates else None,
        "sampled_with": sampled_with(turn),
    }
