"""Options of `egrc eval`, one a line where they are used."""

from pathlib import Path
from typing import Annotated

import typer

Targets = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL | FILE...]", help="A Hugging Face folder; with --responses more such files."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the results.")]
Benchmarks = Annotated[
    str | None,
    typer.Option("--benchmarks", help="Names with commas between, e.g. aime24,amc83, or NAME=FILE."),
]
BenchmarksDir = Annotated[
    Path | None, typer.Option("--benchmarks-dir", help="Folder with the benchmarks' files, as the hub has them.")
]
Online = Annotated[bool, typer.Option("--online", help="Fetch benchmarks from the hub with the datasets library.")]
NumSamples = Annotated[int, typer.Option("--n", min=1, help="Responses to each problem.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0)]
TopP = Annotated[float, typer.Option("--top-p", min=0.0, max=1.0)]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Cap; a response cut by it counts at full length.")
]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Template = Annotated[str, typer.Option("--template", help="Words around a problem: deepscaler, r1, thinkless or none.")]
Servers = Annotated[
    list[str] | None, typer.Option("--server", metavar="URL", help="A server that serves the model already.")
]
AtOnce = Annotated[int, typer.Option("--at-once", min=1, help="Requests in flight.")]
Responses = Annotated[
    list[str] | None,
    typer.Option(
        "--responses",
        metavar="[NAME=]FILE",
        help="Responses sampled elsewhere: ours, ShorterBetter's, verl's, lm-eval's, or plain columns.",
    ),
]
Label = Annotated[str | None, typer.Option("--label", help="The model's name in tables.")]
GateName = Annotated[
    str, typer.Option("--gate", help="strict (a </think> is a must), opened (where thinking began), anywhere.")
]
VerdictsName = Annotated[str, typer.Option("--verdicts", help="ours, or published: those in the file.")]
GraderName = Annotated[str, typer.Option("--grader", help="math, deepscaler or thinkless_compat.")]
ProfileName = Annotated[
    str | None, typer.Option("--profile", help="Conventions of the sets (docs/grading.md); else by their names.")
]
TokenizerFolder = Annotated[
    Path | None, typer.Option("--tokenizer", help="Model folder whose tokenizer counts; else the file's numbers.")
]
Cap = Annotated[int | None, typer.Option("--cap", help="Longer responses were cut, where the file does not say so.")]
Differences = Annotated[bool, typer.Option("--differences", help="List where the file's own verdicts differ.")]
