"""Measures what has not been measured: the same weights under the same protocol are measured once, and that is said."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from egrc_mega.config.config import Config
from egrc_mega.data.reader import read_problems
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import special_tokens
from egrc_mega.evaluation.pending import FOLDER, Pending
from egrc_mega.evaluation.records import SHOWN_DIGITS, Point, Protocol, Subject
from egrc_mega.evaluation.runner import Asked, Generate, measure
from egrc_mega.evaluation.sets import EvaluationSet, evaluation_sets
from egrc_mega.evaluation.store import add_point, read_table
from egrc_mega.methods.method import Judge

Tell = Callable[[int], None]
Progress = Callable[[str, int], AbstractContextManager[Tell]]
"""From what is done and how many responses it takes, to what is told how many have come."""


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


@dataclass(frozen=True, slots=True)
class Bench:
    """One benchmark, read and rendered."""

    name: str
    asked: list[Asked]
    protocols: list[Protocol]
    """One for each temperature."""


def no_progress(_doing: str, _total: int) -> AbstractContextManager[Tell]:
    """Show nothing of how an evaluation goes on."""
    return nullcontext(lambda _number: None)


class Evaluator:
    """A configuration's benchmarks, read once, and the folder that holds their table. It knows no training data."""

    def __init__(
        self,
        config: Config,
        renderer: Renderer,
        stop_token_ids: tuple[int, ...],
        folder: Path,
        generate: Generate,
        judge: Judge,
        progress: Progress = no_progress,
    ) -> None:
        """Read the benchmarks' problems and render their prompts.

        Raises:
            DataError: a benchmark cannot be used.
        """
        self.folder, self.generate, self.judge, self.progress = folder, generate, judge, progress
        self.benches = [_opened(config, each, renderer, stop_token_ids, folder) for each in evaluation_sets(config)]

    def knows(self, subject: Subject) -> bool:
        """Whether every number of these weights stands in the table, so that no server is needed."""
        table = read_table(self.folder)
        return all(table.find(subject, each) for bench in self.benches for each in bench.protocols)

    def evaluate(self, subject: Subject) -> list[Outcome]:
        """One outcome for each set and temperature, measured on the weights that the servers hold where none is known.

        An evaluation that was interrupted goes on with the responses that it has got.
        """
        outcomes = [self._evaluate(subject, bench, each) for bench in self.benches for each in bench.protocols]
        # nothing is pending now; what is left is of weights that nobody will measure again
        shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
        return outcomes

    def _evaluate(self, subject: Subject, bench: Bench, protocol: Protocol) -> Outcome:
        known = read_table(self.folder).find(subject, protocol)
        if known is None:
            return Outcome(self._measured(subject, bench, protocol), None)
        point = replace(
            known,
            set=bench.name,
            label=subject.label,
            ordinal=subject.ordinal,
            step=subject.step,
            within=subject.within,
        )
        return Outcome(point if point == known else add_point(self.folder, protocol, point), known.label)

    def _measured(self, subject: Subject, bench: Bench, protocol: Protocol) -> Point:
        total = len(bench.asked) * protocol.samples_per_problem
        doing = f"evaluating {bench.name or subject.label} at T {protocol.temperature:g}"
        with Pending(self.folder, subject, protocol) as pending, self.progress(doing, total) as tell:
            found = measure(bench.asked, subject, protocol, self.generate, self.judge, pending, tell)
        return add_point(self.folder, protocol, replace(found.point, set=bench.name), found.responses, found.judged)


def _opened(
    config: Config, each: EvaluationSet, renderer: Renderer, stop_token_ids: tuple[int, ...], folder: Path
) -> Bench:
    problems = read_problems(
        each.data.train,
        each.data,
        folder / "quarantine.jsonl",
        profile=each.profile,
        special_tokens=special_tokens(renderer.tokenizer),
    )
    own = renderer.with_instruction(each.data.instruction)
    asked = [Asked(one, own.prompt_ids(one)) for one in problems[: each.num_problems]]
    return Bench(each.name, asked, _protocols(config, each, asked, stop_token_ids))


def _protocols(
    config: Config, each: EvaluationSet, asked: Sequence[Asked], stop_token_ids: tuple[int, ...]
) -> list[Protocol]:
    """One for each temperature."""
    environment, section = config.rollout.environment, each.data
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
            samples_per_problem=each.n,
            temperature=temperature,
            top_p=each.top_p,
            max_new_tokens=each.max_new_tokens,
            stop_token_ids=stop_token_ids,
            seed=each.seed,
            grading=config.grading.model_dump(mode="json", exclude={"num_workers", "timeout_s"})
            | {"profile": each.profile},
            environment=environment.model_dump(mode="json") if environment else None,
        )
        for temperature in each.temperatures
    ]


def _hash_of_prompts(asked: Sequence[Asked]) -> str:
    digest = hashlib.sha256()
    for one in asked:
        for part in (np.asarray(one.prompt_ids, "<i4").tobytes(), one.problem.answer.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
