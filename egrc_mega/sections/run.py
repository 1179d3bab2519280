"""Where a run lives, its model and its commits."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.sections.base import Section


class RunSection(Section):
    """Where the run lives and its one seed."""

    dir: Path
    """Run folder: metrics, checkpoints, export and report go here."""
    seed: NonNegativeInt = 1
    """Every random choice of the run derives from it."""
    replay_rollouts: Path | None = None
    """Folder of a run, or of its rollouts: train on what that has stored, without servers, graders and evaluations;
    `egrc train --replay-rollouts` sets it. None: sample."""
    lead_timeout_s: PositiveFloat = 86400.0
    """Longest that the other ranks wait for rank 0's part of a step: rollouts, grading, an evaluation."""
    stop_grace_s: NonNegativeFloat = 15.0
    """How long a step may go on after SIGTERM. By then its rollouts, or an evaluation, are given up; an update that has
    begun is finished. Then the last whole step is committed and the run ends with exit code 75. Stay well below the
    time after which your cluster kills: Kubernetes waits 30 s by default."""


class ModelSection(Section):
    """The model to compress."""

    path: Path
    """Hugging Face folder: config.json, safetensors, tokenizer."""
    expects: dict[str, int | float | bool | str] = Field(default_factory=dict)
    """Fields that config.json must have with these values: a recipe says which model it is for."""


TrackerName = Literal["tensorboard", "wandb", "trackio"]


def _ascending(steps: tuple[int, int]) -> tuple[int, int]:
    if steps[0] > steps[1]:
        raise ValueError(f"the first step must not be after the last: {list(steps)}")
    return steps


StepRange = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_ascending)]
"""First and last step, counted from 1, both included."""


class ObserveSection(Section):
    """What a run keeps to be looked at, and who is told."""

    trackers: tuple[TrackerName, ...] = ()
    """Who gets the numbers of metrics.jsonl while the run goes on, each in a process of its own: tensorboard, wandb,
    trackio (`pip install 'egrc-mega[trackers]'`). Files and logs are in RUN/trackers."""
    project: str = "egrc_mega"
    """Under which project wandb and trackio list the run; it is called by its folder's name."""

    prometheus_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port on which rank 0 serves the newest step's numbers and the servers' states to Prometheus, under /metrics; 0:
    the system chooses, and a line says what. None: none. One that is taken costs the endpoint, not the run."""
    prometheus_host: str = "127.0.0.1"
    """Address that it is bound to. Whoever reaches another one than loopback can read the numbers."""

    profile_steps: StepRange | None = None
    """First and last step, counted from 1, over which torch's profiler runs; RUN/profile has its trace then. It slows
    these steps and changes no number. None: none."""
    memory_steps: StepRange | None = None
    """First and last step of which every allocation on the GPU is recorded, for RUN/profile/memory_*.pickle, which
    https://pytorch.org/memory_viz shows. Only with CUDA. None: none."""
    profile_ranks: tuple[NonNegativeInt, ...] = (0,)
    """Ranks of which both are made: a file of each."""

    verbose: bool = False
    """A second line a step on the console, with all that the six numbers leave out; `egrc train -v` sets it."""
    rollouts_gib: NonNegativeFloat = 10.0
    """Disk space for every response of the newest steps, in GiB (`egrc rollouts`); the oldest go first. 0: none."""


class CheckpointSection(Section):
    """When the run's state is committed, what stays of it, and what a save that fails does (docs/checkpoints.md)."""

    every: PositiveInt = 10
    """Steps between checkpoints; the end of a stage is always committed, and stays."""
    keep_last: PositiveInt = 2
    """Newest checkpoints that stay besides the ends of stages."""
    keep_every: PositiveInt | None = None
    """Checkpoints whose step is a multiple of it stay, too; it should be a multiple of `every`. None: no others."""
    disk_gib: PositiveFloat | None = None
    """Disk space for the run's folder, in GiB: checkpoints, rollouts, weights for servers, export. When a checkpoint is
    committed the oldest go until the rest fits, even those that `keep_last` and `keep_every` would keep; never the
    newest, the best, and ends of stages. None: no limit."""
    asynchronous: bool = False
    """Copy the state to host memory, and write it behind the next steps. Costs as much host memory as a checkpoint has
    bytes; at most one is in flight, and none when the run ends."""
    on_failure: Literal["stop", "continue"] = "stop"
    """What a checkpoint that cannot be written does: end the run, or be reported and tried again when the next one is
    due. The checkpoints before it stay in either case."""
    max_failures: PositiveInt = 3
    """So many failed checkpoints one after the other end the run even with on_failure continue."""
    timeout_s: PositiveFloat = 1800.0
    """Longest that a rank waits for the others over a checkpoint, or for one in flight."""
