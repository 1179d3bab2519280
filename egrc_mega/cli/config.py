"""`egrc config`."""

import typer

from egrc_mega.cli.options import ConfigFile, Overrides

app = typer.Typer(no_args_is_help=True, help="Look at configurations.")


@app.callback()
def group() -> None:
    """Keeps `show` a subcommand."""


@app.command("show")
def show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved configuration and where each value came from."""
    from egrc_mega.config.load import load_config
    from egrc_mega.config.show import render

    print(render(load_config(config, overrides or [])))
