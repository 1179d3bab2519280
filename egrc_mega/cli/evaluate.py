"""`egrc eval`: measures a model, or responses that are there already, and compares what was measured."""

from pathlib import Path
from typing import Annotated, Any

import typer

from egrc_mega.cli import evaluate_options as given
from egrc_mega.cli.default_command import DEFAULT, DefaultCommandGroup
from egrc_mega.cli.options import MaybeConfigFiles, Overrides

app = typer.Typer(cls=DefaultCommandGroup, help="Measure a model, or responses that others have sampled; compare runs.")


@app.command(DEFAULT)
def evaluate(
    targets: given.Targets = None,
    out: given.Out = None,
    benchmarks: given.Benchmarks = None,
    benchmarks_dir: given.BenchmarksDir = None,
    online: given.Online = False,
    num_samples: given.NumSamples = 1,
    temperature: given.Temperature = 0.6,
    top_p: given.TopP = 0.95,
    max_new_tokens: given.MaxNewTokens = 32768,
    seed: given.Seed = 0,
    template: given.Template = "deepscaler",
    server: given.Servers = None,
    at_once: given.AtOnce = 256,
    responses: given.Responses = None,
    label: given.Label = None,
    gate: given.GateName = "opened",
    verdicts: given.VerdictsName = "ours",
    grader: given.GraderName = "math",
    profile: given.ProfileName = None,
    tokenizer: given.TokenizerFolder = None,
    cap: given.Cap = None,
    differences: given.Differences = False,
    config: MaybeConfigFiles = None,
    overrides: Overrides = None,
) -> None:
    """Measure a model on benchmarks, or responses that others have sampled.

    MODEL --benchmarks asks servers, --server or such as --set rollout.server=sglang starts. --responses asks nobody.
    MODEL --config measures the evaluation section of a run's configuration, as the run itself does.
    `egrc eval compare RUN...` puts what was measured side by side, `egrc eval paper` prints the paper's tables.
    """
    from egrc_mega.errors import ConfigError
    from egrc_mega.evaluation.judging import Gate, Judging, Verdicts

    if out is None:
        raise ConfigError("--out: missing; give a folder for the results")
    judging = Judging(grader, profile or "default", _one_of(Gate, gate), _one_of(Verdicts, verdicts), cap)
    if responses:
        from egrc_mega.launch.evaluate_responses import ResponseOptions, evaluate_responses

        files = [*responses, *(targets or [])]
        evaluate_responses(
            ResponseOptions(files, label, judging, profile, tokenizer, out, shows_differences=differences)
        )
        return
    if not targets or len(targets) != 1:
        raise ConfigError("egrc eval: give one model folder, or --responses FILE")
    if benchmarks:
        rollout = _rollout_fields(overrides or [])
        from egrc_mega.launch.evaluate_benchmarks import BenchmarkOptions, evaluate_benchmarks

        evaluate_benchmarks(
            BenchmarkOptions(
                model=Path(targets[0]),
                benchmarks=benchmarks.split(","),
                out=out,
                folder=benchmarks_dir,
                is_online=online,
                urls=tuple(server or ()),
                rollout=rollout,
                num_samples=num_samples,
                temperature=temperature,
                top_p=top_p,
                max_new_tokens=max_new_tokens,
                seed=seed,
                template=template,
                label=label,
                judging=judging,
                profile=profile,
                at_once=at_once,
            )
        )
        return
    _measure_by_config(Path(targets[0]), config or [], overrides or [], out)


def _measure_by_config(model: Path, config: list[Path], overrides: list[str], out: Path) -> None:
    """Measure a model with the evaluation section and the servers of a run's configuration."""
    from egrc_mega.errors import ConfigError

    if not config:
        raise ConfigError("egrc eval: give --benchmarks, or --config with an evaluation section")
    from egrc_mega.config.load import load_config
    from egrc_mega.training.standalone import evaluate_model

    evaluate_model(model, load_config(config, overrides).config, out)


def _rollout_fields(overrides: list[str]) -> dict[str, Any]:
    """What `--set rollout.NAME=VALUE` says; there is no configuration that another section could belong to."""
    from egrc_mega import yaml_text
    from egrc_mega.errors import ConfigError

    fields = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or not name.startswith("rollout."):
            raise ConfigError(f"--set {override}: with --benchmarks only rollout.NAME=VALUE can be set")
        try:
            fields[name.removeprefix("rollout.")] = yaml_text.read(value)
        except yaml_text.UNREADABLE as error:
            raise ConfigError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from error
    return fields


def _one_of(kind: Any, value: str) -> Any:
    from egrc_mega.errors import ConfigError

    if value not in list(kind):
        raise ConfigError(f"--{kind.__name__.lower()}: {value!r} is unknown; choose from {', '.join(kind)}")
    return kind(value)


@app.command("compare")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of `egrc eval --out`, or of runs.")],
    base: Annotated[
        Path | None, typer.Option("--base", help="The evaluation that the others began as; else the first.")
    ] = None,
    benchmarks: Annotated[
        str | None, typer.Option("--benchmarks", help="Which, with commas between; else all that are there.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex or json.")] = "text",
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw accuracy against length, an .svg file.")] = None,
) -> None:
    """Print accuracy, length and L-Acc side by side, with paired tests against the base."""
    from egrc_mega.launch.compare_evaluations import compare_evaluations

    print(compare_evaluations(runs, base, benchmarks.split(",") if benchmarks else None, form, plot))


@app.command("paper")
def paper() -> None:
    """Print tables 1 and 2 of the paper, L-Acc recomputed, and the six cells that disagree marked."""
    from egrc_mega.launch.compare_evaluations import paper_tables

    print(paper_tables())
