"""Evaluates responses that others have sampled: reads, judges, sums up, and writes the folder."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from egrc_mega.evaluation.intake import CountTokens, Intake, take_in
from egrc_mega.evaluation.judging import Judging
from egrc_mega.evaluation.known_sets import named_file, profile_of
from egrc_mega.evaluation.results import Evaluation, SetResult, protocol_of, write_evaluation
from egrc_mega.evaluation.statistics.l_acc import LABEL
from egrc_mega.evaluation.summary import summarised, summary_lines


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """What was asked for."""

    files: Sequence[str]
    """`FILE` or `BENCHMARK=FILE`."""
    label: str | None
    judging: Judging
    profile: str | None
    """None: by the benchmark's name."""
    tokenizer: Path | None
    out: Path
    num_workers: int = 2
    shows_differences: bool = False


def evaluate_responses(options: ResponseOptions) -> None:
    """Judge the files, print the figures of each benchmark, and write `out`.

    Raises:
        DataError: a file cannot be read, or a response cannot be judged.
        RunError: `out` holds another model's evaluation.
    """
    files: dict[str, list[Path]] = {}
    for text in options.files:
        name, path = named_file(text)
        files.setdefault(name, []).append(path)
    label = options.label or _label_of(next(iter(files.values()))[0])
    count_tokens = _counter(options.tokenizer)
    sets = {name: _evaluate_set(name, paths, options, count_tokens) for name, paths in files.items()}
    evaluation = Evaluation(label=label, model=f"{LABEL}{label}", sets=sets)
    summaries = {name: summarised(found) for name, found in sets.items()}
    write_evaluation(options.out, evaluation, {name: each.as_json() for name, each in summaries.items()})
    print(f"{label}, gate {options.judging.gate}, verdicts {options.judging.verdicts}, into {options.out}")
    for name, summary in summaries.items():
        print("\n".join(summary_lines(name, summary)))
        if options.shows_differences:
            print("\n".join(f"  differs   {line}" for line in sets[name].differences))


def _evaluate_set(
    name: str, paths: Sequence[Path], options: ResponseOptions, count_tokens: CountTokens | None
) -> SetResult:
    judging = replace(options.judging, profile=options.profile or profile_of(name))
    with judging.pool(options.num_workers) as pool, _progress() as progress:
        task = progress.add_task(f"judging {name}", total=None)
        intake = take_in(paths, judging, pool, count_tokens, lambda count: progress.advance(task, count))
    protocol = protocol_of(intake.golds, asdict(judging), _unit(intake, options.tokenizer), None)
    return SetResult(name=name, protocol=protocol, judged=intake.judged, differences=tuple(intake.differences))


def _unit(intake: Intake, tokenizer: Path | None) -> str:
    return intake.length_unit if tokenizer is None else f"tokens, as the tokenizer of {tokenizer.name} counts them"


def _counter(tokenizer: Path | None) -> CountTokens | None:
    if tokenizer is None:
        return None
    from egrc_mega.data.tokenizer import load_tokenizer  # it takes seconds, and most files count for themselves

    loaded = load_tokenizer(tokenizer)
    return lambda text: len(loaded.encode(text, add_special_tokens=False))


def _progress() -> Progress:
    """Responses that are judged, on stderr: stdout is for results. How many there will be, no file says."""
    console = Console(file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed:.0f}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _label_of(path: Path) -> str:
    return path.name.split(".")[0] or str(path)
