"""`egrc study`: runs a grid of runs and compares them."""

from pathlib import Path
from typing import Annotated

import typer


def study(
    config: Annotated[Path, typer.Argument(help="YAML file of a study; see configs/studies/.", metavar="CONFIG")],
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Runs at a time on this host; without: one for each core.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed cells again.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Run nothing; make table and page anew.")] = False,
) -> None:
    """Run every setting with every seed, then write one table and one page that compares them.

    What has ended is never run again; what was killed goes on. Several hosts that share the folder share the work.
    """
    from egrc_mega.studies.study import run_study

    run_study(config, jobs=jobs, retry_failed=retry_failed, only_report=report)
