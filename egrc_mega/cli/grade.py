"""`egrc grade`: one verdict with the rungs it took, or the verdicts on a file of responses from elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from egrc_mega.plain_text import plain


def grade(
    file: Annotated[Path | None, typer.Argument(help="JSONL or JSON array of responses, gzip too.")] = None,
    gold: Annotated[str | None, typer.Option("--gold", help="One gold answer.")] = None,
    response: Annotated[
        str | None, typer.Option("--response", help="One response; without a box it is the answer.")
    ] = None,
    gold_key: Annotated[str, typer.Option("--gold-key", help="Column of the gold answer.")] = "gold",
    response_key: Annotated[str, typer.Option("--response-key", help="Column of the response.")] = "response",
    verdict_key: Annotated[
        str | None, typer.Option("--verdict-key", help="Column of somebody else's verdict: list where it differs.")
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", help="Conventions of the data set: docs/grading.md.")
    ] = "default",
    grader: Annotated[str, typer.Option("--grader", help="math, deepscaler or thinkless_compat.")] = "math",
    prompt_thinks: Annotated[
        bool,
        typer.Option("--prompt-thinks", help="The prompt ended within an open <think>: the response must end it."),
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="JSONL file for the rows with verdict and reason.")] = None,
) -> None:
    """Grade one response, and say why; or a file of responses."""
    from egrc_mega.errors import ConfigError
    from egrc_mega.launch.grade import Question, grade_file, grade_one

    question = Question(grader, profile, prompt_thinks)
    if file is None:
        if gold is None or response is None:
            raise ConfigError("egrc grade: give a FILE, or --gold and --response")
        print(plain(grade_one(question, gold, response)))
        return
    if gold is not None or response is not None:
        raise ConfigError("egrc grade: --gold and --response are for one response, without a FILE")
    print(plain(grade_file(question, file, gold_key, response_key, verdict_key, out)))
