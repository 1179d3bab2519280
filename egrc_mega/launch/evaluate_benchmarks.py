"""`egrc eval MODEL --benchmarks ...`: asks servers for n responses to every problem, judges them and sums up."""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from egrc_mega.config.explain import explain
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import check_vocabulary, load_tokenizer, stop_token_ids
from egrc_mega.errors import ConfigError, ModelError
from egrc_mega.evaluation.asking import AskedProblem, ask, asked_problems, missing_requests
from egrc_mega.evaluation.benchmarks import TEMPLATES, Benchmark, fetch_benchmark, find_benchmark, load_benchmark
from egrc_mega.evaluation.fingerprint import fingerprint_of_folder
from egrc_mega.evaluation.intake import OWN_TOKENS, take_in
from egrc_mega.evaluation.journal import Journal
from egrc_mega.evaluation.judging import Judging
from egrc_mega.evaluation.known_sets import profile_of
from egrc_mega.evaluation.results import Evaluation, SetResult, protocol_of, write_evaluation
from egrc_mega.evaluation.summary import summarised, summary_lines
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.start.process import first_version
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.types import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOptions:
    """What was asked for."""

    model: Path
    benchmarks: Sequence[str]
    """Names, or `NAME=FILE`."""
    out: Path
    folder: Path | None = None
    """Where benchmarks of a known name are."""
    is_online: bool = False
    """Benchmarks come from the hub."""
    urls: Sequence[str] = ()
    """Servers that run already and serve the model; none: start them."""
    rollout: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the rollout section, for the servers that are started."""
    num_samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 32768
    seed: int = 0
    template: str = "deepscaler"
    label: str | None = None
    judging: Judging = field(default_factory=Judging)
    profile: str | None = None
    at_once: int = 256


def evaluate_benchmarks(options: BenchmarkOptions) -> None:
    """Measure a model; what `out` has got of the same evaluation before is not asked for again.

    Raises:
        EgrcError: a benchmark, the model folder or a server cannot be used.
    """
    if not options.model.is_dir():
        raise ModelError(f"{options.model} is not a folder; give the Hugging Face folder of the model")
    if options.template not in TEMPLATES:
        raise ConfigError(f"--template: {options.template!r} is unknown; choose from {', '.join(TEMPLATES)}")
    section = _servers(options)
    benchmarks = [_loaded(text, options) for text in options.benchmarks]
    tokenizer = load_tokenizer(options.model)
    check_vocabulary(tokenizer, options.model)
    renderer = Renderer(tokenizer, "")
    sampling = Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        max_new_tokens=options.max_new_tokens,
        stop_token_ids=stop_token_ids(tokenizer, options.model),
    )
    weights = fingerprint_of_folder(options.model)
    label = options.label or options.model.name
    measured = _Measuring(options, renderer, sampling, weights)
    asked = {each.name: asked_problems(each, TEMPLATES[options.template], renderer) for each in benchmarks}
    measured.sample(section, asked)
    for benchmark in benchmarks:
        found = measured.judged(benchmark, asked[benchmark.name])
        summary = summarised(found)
        evaluation = Evaluation(label=label, model=weights, sets={benchmark.name: found})
        write_evaluation(options.out, evaluation, {benchmark.name: summary.as_json()})
        print("\n".join(summary_lines(benchmark.name, summary)), flush=True)


def _servers(options: BenchmarkOptions) -> RolloutSection:
    """External ones where there are URLs; long responses need more patience than a training step."""
    fields: dict[str, Any] = {"request_timeout_s": 14400.0, "silence_timeout_s": 900.0, **options.rollout}
    if options.urls:
        fields |= {"server": "external", "urls": tuple(options.urls)}
    try:
        return RolloutSection.model_validate(fields)
    except ValidationError as error:
        raise ConfigError("\n".join(f"rollout.{line}" for line in explain(error))) from error


def _loaded(text: str, options: BenchmarkOptions) -> Benchmark:
    if options.is_online and "=" not in text:
        name, path = text, fetch_benchmark(text, options.folder or options.out / "benchmarks")
    else:
        name, path = find_benchmark(text, options.folder)
    found = load_benchmark(name, path)
    aside = f", {len(found.set_aside)} rows set aside ({found.set_aside[0].reason:.80})" if found.set_aside else ""
    print(f"{name}: {len(found.problems)} problems from {path}{aside}", flush=True)
    return found


class _Measuring:
    """One model under one way of sampling."""

    def __init__(self, options: BenchmarkOptions, renderer: Renderer, sampling: Sampling, weights: str) -> None:
        self.options, self.renderer, self.sampling, self.weights = options, renderer, sampling, weights

    def sample(self, section: RolloutSection, asked: Mapping[str, Sequence[AskedProblem]]) -> None:
        """Get what the journals lack. Without anything to ask no server is needed."""
        needed = {}
        for name, problems in asked.items():
            with self._journal(name, problems) as journal:
                needed[name] = len(self._missing(name, problems, journal))
        total = sum(map(len, asked.values())) * self.options.num_samples
        print(f"asking for {sum(needed.values())} of {total} responses; the others are there", flush=True)
        if not any(needed.values()):
            return
        vocab_size = read_architecture(self.options.model).vocab_size
        logs = self.options.out / "logs"
        with (
            Fleet.start(section, self.options.model, first_version(), logs, vocab_size=vocab_size, note=_say) as fleet,
            _progress() as progress,
        ):
            if section.server == "external":
                _say(_served(fleet, self.options.model))
            for name, problems in asked.items():
                self._sample_set(name, problems, fleet, progress)

    def _sample_set(self, name: str, problems: Sequence[AskedProblem], fleet: Fleet, progress: Progress) -> None:
        total = len(problems) * self.options.num_samples
        with self._journal(name, problems) as journal:
            missing = self._missing(name, problems, journal)
            task = progress.add_task(name, total=total, completed=total - len(missing))
            with fleet.stream() as stream:
                ask(stream, missing, self.renderer, journal, self.options.at_once, lambda n: progress.advance(task, n))

    def _missing(self, name: str, problems: Sequence[AskedProblem], journal: Journal) -> Any:
        options = self.options
        return missing_requests(name, problems, options.num_samples, options.seed, self.sampling, journal)

    def _journal(self, name: str, problems: Sequence[AskedProblem]) -> Journal:
        key = orjson.dumps([self.weights, self.options.seed, self._settings(problems)], option=orjson.OPT_SORT_KEYS)
        return Journal(self.options.out / "responses" / f"{name}.jsonl", hashlib.sha256(key).hexdigest())

    def _settings(self, problems: Sequence[AskedProblem]) -> dict[str, Any]:
        """What decides about the figures on the side of the sampling; number and seed of the samples are only noise."""
        digest = hashlib.sha256()
        for one in problems:
            content = np.asarray(one.prompt_ids, "<i4").tobytes()
            digest.update(len(content).to_bytes(8, "little") + content)
        return asdict(self.sampling) | {"template": self.options.template, "prompts": digest.hexdigest()}

    def judged(self, benchmark: Benchmark, problems: Sequence[AskedProblem]) -> SetResult:
        """Judge the responses of the journal: all of them, also those of an earlier, larger n."""
        name = benchmark.name
        judging = replace(self.options.judging, profile=self.options.profile or profile_of(name))
        with judging.pool(2) as pool:
            intake = take_in([self.options.out / "responses" / f"{name}.jsonl"], judging, pool)
        protocol = protocol_of(intake.golds, asdict(judging), OWN_TOKENS, self._settings(problems))
        return SetResult(name=name, protocol=protocol, judged=intake.judged, differences=tuple(intake.differences))


def _served(fleet: Fleet, model: Path) -> str:
    """What the servers say that they serve: nobody else can know whether it is this model."""
    infos = [fleet.run(server.client.model_info()) for server in fleet.servers]
    said = ", ".join(sorted({str(info.get("model_path", "nothing")) for info in infos}))
    return f"the servers say that they serve {said}; the results are written down as those of {model}"


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Responses with the time that is left, on stderr, and nothing where that is no terminal: stdout is for results."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress
