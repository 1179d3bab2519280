"""`egrc serve`: rollout servers without a run."""

from typing import Annotated

import typer

from egrc_mega.cli.options import MaybeConfigFiles, Overrides

app = typer.Typer(help="Start rollout servers, or look at some.", invoke_without_command=True)


@app.callback()
def serve(context: typer.Context, config: MaybeConfigFiles = None, overrides: Overrides = None) -> None:
    """Start the configuration's servers and restart what dies, until interrupted."""
    if context.invoked_subcommand is not None:
        return
    from egrc_mega.errors import ConfigError
    from egrc_mega.launch.serve import serve as run

    if not config:
        raise ConfigError("--config: which servers? give a configuration")
    run(config, overrides or [])


@app.command()
def status(urls: Annotated[list[str], typer.Argument(help="Base URLs of servers.")]) -> None:
    """A line for each server; exit code 1 when one is not well."""
    from egrc_mega.launch.serve import status as look

    lines, all_well = look(urls)
    print("\n".join(lines))
    raise typer.Exit(0 if all_well else 1)
