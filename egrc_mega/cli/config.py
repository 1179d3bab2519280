"""`egrc config`: shows what a configuration says, and what it may choose from."""

from typing import Annotated

import typer

from egrc_mega.cli.options import MaybeConfigFiles, Overrides

app = typer.Typer(no_args_is_help=True, help="Look at configurations.")


@app.command("show")
def show(
    config: MaybeConfigFiles = None,
    overrides: Overrides = None,
    methods: Annotated[
        bool, typer.Option("--methods", help="List every method, reward, grader and data source with its fields.")
    ] = False,
) -> None:
    """Print the resolved configuration and where each value came from, or what a configuration may choose from."""
    from egrc_mega.config.catalogue import catalogue
    from egrc_mega.config.load import load_config
    from egrc_mega.config.show import render
    from egrc_mega.errors import ConfigError

    if not config and not methods:
        raise ConfigError("--config: which configuration? give a file, or --methods for what there is to choose from")
    loaded = load_config(config, overrides or []) if config else None
    if methods:
        print(catalogue())
    elif loaded:
        print(render(loaded))


@app.command("explain")
def explain(
    name: Annotated[str, typer.Argument(help="Dotted: rollout.gpus, stages.compress, stages.dapo.loss.agg.")],
    config: MaybeConfigFiles = None,
) -> None:
    """Say what a field is: type and bounds, default, meaning, what is refused. Of a section, all its fields.

    With a configuration its plugins are known, too.
    """
    from egrc_mega.config.describe import describe
    from egrc_mega.config.load import load_config

    if config:
        load_config(config)
    print(describe(name))


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a configuration, by which editors complete and check YAML."""
    import json

    from egrc_mega.config.config import Config

    print(json.dumps(Config.model_json_schema(), indent=1))
