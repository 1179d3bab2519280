"""`egrc doctor`: says what is installed, what is missing and what to do about it."""

from typing import Annotated

import typer

from egrc_mega.cli.options import MaybeConfigFiles, Overrides


def doctor(
    config: MaybeConfigFiles = None,
    overrides: Overrides = None,
    url: Annotated[
        list[str] | None, typer.Option("--url", help="Base URL of a server to ask, too. May be repeated.")
    ] = None,
    in_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check this machine: packages, GPUs, servers, disk, limits; ok, warn or fail, each with the fix. 1 if one fails.

    With a configuration its servers, its run.dir and its device are checked, too. Starts and writes nothing.
    """
    from egrc_mega.launch.doctor.diagnosis import diagnose

    raise typer.Exit(diagnose(config or [], overrides or [], url or [], in_json=in_json))
