"""What a tracker is, and which there are. Adding one: a class in a file of its own, and a line in `TRACKERS`."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from egrc_mega.errors import ConfigError
from egrc_mega.sections.run import TrackerName

TRACKERS: Mapping[TrackerName, tuple[str, str]] = {
    "tensorboard": ("egrc_mega.trackers.tensorboard", "tensorboardX"),
    "wandb": ("egrc_mega.trackers.wandb", "wandb"),
    "trackio": ("egrc_mega.trackers.trackio", "trackio"),
}
"""Name -> the module of its class, called `Sink`, and the package that it needs."""


class Tracker(Protocol):
    """Where numbers go. Made as `Sink(folder, project, name, config)`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a step, counted from 1; steps never fall."""

    def close(self) -> None:
        """Everything is sent or on disk when this returns."""


def open_tracker(name: TrackerName, folder: Path, project: str, run: str, config: Mapping[str, Any]) -> Tracker:
    """The tracker of a name; it keeps its files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sink: Tracker = import_module(TRACKERS[name][0]).Sink(folder, project, run, config)
    return sink


def require_installed(name: TrackerName, field: str) -> None:
    """Refuse a tracker whose package is not there.

    Raises:
        ConfigError: it names the package and how to get it.
    """
    package = TRACKERS[name][1]
    if find_spec(package) is None:
        raise ConfigError(f"{field}: {name} needs the package {package}; run pip install 'egrc-mega[trackers]'")
