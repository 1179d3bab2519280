"""Where rules would have ended the stages of a recorded run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from egrc_mega.errors import RunError
from egrc_mega.sections.stage import StageSection
from egrc_mega.stages.curves import Curves
from egrc_mega.stages.progress import Progress, Switch, advance


@dataclass(frozen=True, slots=True)
class Replayed:
    """One recorded stage under a configuration's rules."""

    stage: str
    first_step: int
    last_step: int
    """As recorded, counted over the whole run from 1."""
    curves: tuple[Curves, ...]
    """What the rules saw after each recorded step, up to the switch; empty means where there is no plateau rule."""
    switch: Switch | None
    """Where the rules would have ended the stage; None: not within the recorded steps."""

    def line(self) -> str:
        """The verdict in words."""
        recorded = f"{self.stage}: recorded over steps {self.first_step} to {self.last_step}; "
        if self.switch is None:
            return f"{recorded}the rules would have gone on"
        return f"{recorded}the rules end it after step {self.switch.step}: {self.switch.reason}"


def replay(steps: Sequence[Mapping[str, Any]], stages: Sequence[StageSection]) -> list[Replayed]:
    """Every recorded stage under the rules of the configured stage of its name.

    Args:
        steps: step records, in order.

    Raises:
        RunError: nothing was recorded, or the configuration has no stage of a recorded name.
    """
    if not steps:
        raise RunError("metrics.jsonl holds no step: give the file of a run that has made some")
    by_name = {stage.name: stage for stage in stages}
    if unknown := sorted({step["stage"] for step in steps} - by_name.keys()):
        raise RunError(
            f"stages: the run has recorded {unknown[0]}, the configuration has {sorted(by_name)}; name it by a `label`"
        )
    segments = [(name, list(records)) for name, records in groupby(steps, key=lambda step: step["stage"])]
    return [_replayed(records, by_name[name]) for name, records in segments]


def _replayed(records: list[Mapping[str, Any]], stage: StageSection) -> Replayed:
    first = records[0]["step"]
    progress, switch, seen = Progress(step=first - 1), None, []
    for record in records:
        progress, switch = advance(progress, [stage], record)
        seen.append(progress.curves)
        if switch:
            break
    return Replayed(stage.name, first, records[-1]["step"], tuple(seen), switch)
