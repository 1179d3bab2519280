"""Measures what has not been measured: the same weights under the same protocol are measured once, and that is said."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from egrc_mega.config.config import Config
from egrc_mega.data.reader import read_problems
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import special_tokens
from egrc_mega.evaluation.records import SHOWN_DIGITS, Point, Protocol, Subject
from egrc_mega.evaluation.runner import Asked, Generate, measure
from egrc_mega.evaluation.store import add_point, read_table
from egrc_mega.grading.grader import GRADERS
from egrc_mega.methods.method import Judge
from egrc_mega.sections.data import DataSection


@dataclass(frozen=True, slots=True)
class Outcome:
    """A subject's point under one protocol."""

    point: Point
    kept_from: str | None
    """Label of the point whose numbers these are; None: measured now."""

    def line(self) -> str:
        """In words, for the console."""
        if self.kept_from is None:
            return self.point.line()
        source = "" if self.kept_from == self.point.label else f" as {self.kept_from}"
        return (
            f"{self.point.line()} (kept: measured before{source}, with the same weights "
            f"{self.point.weights[:SHOWN_DIGITS]} and protocol {self.point.protocol[:SHOWN_DIGITS]})"
        )


class Evaluator:
    """The benchmark of a configuration, read once, and the folder that holds its table. It knows no training data."""

    def __init__(
        self,
        config: Config,
        renderer: Renderer,
        stop_token_ids: tuple[int, ...],
        folder: Path,
        generate: Generate,
        judge: Judge,
    ) -> None:
        """Read the benchmark's problems and render their prompts.

        Raises:
            DataError: the benchmark cannot be used.
        """
        self.folder, self.generate, self.judge = folder, generate, judge
        section = evaluation_data(config)
        quarantine = folder / "quarantine.jsonl"
        tokens = special_tokens(renderer.tokenizer)
        profile = evaluation_profile(config)
        problems = read_problems(section.train, section, quarantine, profile=profile, special_tokens=tokens)
        own = renderer.with_instruction(section.instruction)
        self.asked = [Asked(one, own.prompt_ids(one)) for one in problems[: config.evaluation.num_problems]]
        self.protocols = _protocols(config, section, self.asked, stop_token_ids)

    def evaluate(self, subject: Subject) -> list[Outcome]:
        """One outcome for each temperature, measured on the weights that the servers hold where it is not known."""
        return [self._evaluate(subject, protocol) for protocol in self.protocols]

    def _evaluate(self, subject: Subject, protocol: Protocol) -> Outcome:
        known = read_table(self.folder).find(subject, protocol)
        if known is None:
            measurement = measure(self.asked, subject, protocol, self.generate, self.judge)
            return Outcome(add_point(self.folder, protocol, measurement.point, measurement.responses), None)
        point = replace(known, label=subject.label, ordinal=subject.ordinal, step=subject.step)
        return Outcome(point if point == known else add_point(self.folder, protocol, point), known.label)


def evaluation_data(config: Config) -> DataSection:
    """How the benchmark is read: with the evaluation's own keys and instruction, where it has some."""
    section = config.evaluation
    own = {name: getattr(section, name) for name in ("prompt_key", "answer_key", "instruction")}
    stated = {name: value for name, value in own.items() if value is not None}
    # what only methods ask for is not asked of the benchmark
    other = {"train": section.data, "facts": (), "answer_type": section.answer_type}
    return config.data.model_copy(update={**other, **stated})


def evaluation_profile(config: Config) -> str | None:
    """The conventions by which the benchmark is graded: the evaluation's own, or the training set's."""
    return (config.evaluation.profile or config.grading.profile) if _judges_mathematics(config) else None


def training_profile(config: Config) -> str | None:
    """The conventions of the training set; None where the grader's golds are no mathematics."""
    return config.grading.profile if _judges_mathematics(config) else None


def _judges_mathematics(config: Config) -> bool:
    return GRADERS[config.grading.grader.grader].judges_mathematics


def _protocols(
    config: Config, section: DataSection, asked: Sequence[Asked], stop_token_ids: tuple[int, ...]
) -> list[Protocol]:
    """One for each temperature."""
    evaluation, environment = config.evaluation, config.rollout.environment
    with section.train.open("rb") as file:
        benchmark_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return [
        Protocol(
            benchmark=section.train.name,
            benchmark_sha256=benchmark_sha256,
            prompt_key=section.prompt_key,
            answer_key=section.answer_key,
            instruction=section.instruction,
            prompts_sha256=_hash_of_prompts(asked),
            num_problems=len(asked),
            samples_per_problem=1,
            temperature=temperature,
            top_p=evaluation.top_p,
            max_new_tokens=evaluation.max_new_tokens,
            stop_token_ids=stop_token_ids,
            seed=evaluation.seed,
            grading=config.grading.model_dump(mode="json", exclude={"num_workers", "timeout_s"})
            | {"profile": evaluation_profile(config)},
            environment=environment.model_dump(mode="json") if environment else None,
        )
        for temperature in evaluation.temperatures
    ]


def _hash_of_prompts(asked: Sequence[Asked]) -> str:
    digest = hashlib.sha256()
    for one in asked:
        for part in (np.asarray(one.prompt_ids, "<i4").tobytes(), one.problem.answer.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
