"""`egrc track`: sends the numbers of a run to a tracker, during it or afterwards."""

import threading
from pathlib import Path
from typing import Annotated

import typer


def track(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    to: Annotated[str, typer.Option("--to", help="tensorboard, wandb or trackio.")],
) -> None:
    """Send what stands in metrics.jsonl and has not been sent."""
    from egrc_mega.errors import ConfigError, EgrcError, RunError
    from egrc_mega.trackers.process import feed
    from egrc_mega.trackers.tracker import TRACKERS, require_installed

    name = next((known for known in TRACKERS if known == to), None)
    if name is None:
        raise ConfigError(f"--to: {to!r} is no tracker; choose from {', '.join(TRACKERS)}")
    require_installed(name, "--to")
    if not (run / "metrics.jsonl").is_file() or not (run / "config.yaml").is_file():
        raise RunError(f"{run} holds no run; give a folder with metrics.jsonl and config.yaml")
    over = threading.Event()
    over.set()
    try:
        print(f"{feed(name, run, over)} events sent to {name}")
    except EgrcError:
        raise
    except Exception as error:  # of whatever kind its library has for a network, a key or a disk
        raise RunError(
            f"--to {name}: {type(error).__name__}: {error}; give the command again once that is mended: what has "
            f"been sent is not sent twice"
        ) from error
