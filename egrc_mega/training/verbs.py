"""The verbs of the loop tell the watch for hangs what their rank is at."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from egrc_mega.config.config import Config
from egrc_mega.observe.hangs import HangWatch, introduction
from egrc_mega.observe.pulse import PULSE
from egrc_mega.policy import distributed

VERBS = (
    "evaluate",
    "open_stage",
    "collect",
    "sample_ahead",
    "credit",
    "update",
    "publish_weights",
    "record",
    "commit",
    "finish",
)
R = TypeVar("R")


def noted(run: type[R]) -> type[R]:
    """Decorates the class of runs: whoever is within a verb is in a phase of the verb's name and the step's number."""
    for name in VERBS:
        setattr(run, name, _noted(name, getattr(run, name)))
    return run


def _noted(name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    def within_phase(run: Any, *arguments: Any, **named: Any) -> Any:
        turn = next((each for each in arguments if hasattr(each, "step")), None)
        place = f"step {turn.step + 1}" if turn else f"after step {run.state.progress.step}"
        with PULSE.phase(f"{name}, {place}"):
            return verb(run, *arguments, **named)

    return within_phase


def watch_for_hangs(config: Config) -> HangWatch:
    """This rank's watch; the process groups must exist. Collective."""
    ranks = distributed.gather_texts(introduction())
    limit_s, field = config.policy.distributed_timeout_s, "policy.distributed_timeout_s"
    return HangWatch(config.run.dir, distributed.rank(), ranks, limit_s, field)
