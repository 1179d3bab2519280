"""The rollout servers, and how weights reach them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.sections.base import Section


class EnvironmentSection(Section):
    """An environment that writes some of the tokens of a response (a rollout in segments)."""

    name: Literal["noisy_arithmetic"]
    """`noisy_arithmetic`: the miniature's first attempts get a wrong result (methods: Run N)."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Chance that the environment writes, at each place where it may."""


class RolloutSection(Section):
    """The rollout servers and how they are asked."""

    server: Literal["embedded", "sglang", "external"] = "embedded"
    """`embedded` starts CPU servers of our own, `sglang` SGLang's, `external` uses servers that run already."""
    urls: tuple[str, ...] = ()
    """Base URLs of external servers, e.g. http://127.0.0.1:30000."""
    hosts_file: Path | None = None
    """File with a base URL of an external server on each line."""
    announce_dir: Path | None = None
    """Shared folder in which servers started by `egrc serve` announce themselves, and where external ones are found."""
    num_servers: PositiveInt = 1
    """Servers to start, or to wait for in `announce_dir`."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where servers of SGLang run, whoever starts them."""
    tensor_parallel_size: PositiveInt = 1
    """Devices that share the model of one server of SGLang."""
    gpus: tuple[NonNegativeInt, ...] = ()
    """GPU numbers, dealt out to the servers in order; empty: from 0 on. Counted within CUDA_VISIBLE_DEVICES, where
    that is set."""
    python: Path | None = None
    """Interpreter that has SGLang; None: `.venv-serve`, which `scripts/serve_env.sh` makes."""
    sglang_args: tuple[str, ...] = ()
    """More flags of SGLang's launcher, e.g. --mem-fraction-static=0.8; they stand last."""
    host: str = "127.0.0.1"
    """Address on which started servers listen; any other than this machine's own loopback needs EGRC_API_KEY."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """First port of the servers that are started; 0 lets the system choose."""
    prompts_per_step: PositiveInt = 128
    """Prompts in each rollout batch."""
    over_sampling: Annotated[float, Field(ge=1)] = 1.0
    """Prompts asked for per prompt trained: once enough groups are whole the others are aborted, and come first in the
    next step."""
    dynamic_sampling_limit: Annotated[float, Field(ge=1)] = 8.0
    """Where a stage drops groups: new prompts per prompt trained, at most; then the run stops."""
    partial_rollouts: bool = False
    """Go on with aborted responses in the next step instead of starting them again."""
    mode: Literal["sync", "ahead", "async"] = "sync"
    """`sync`: sample a batch, then train on it. `ahead`: sample the next step's batch while this one trains. `async`:
    sample all the time, as far ahead as `max_staleness` allows. Both within a stage."""
    colocated: bool = False
    """Servers stand on the trainer's GPUs: they free their memory while the policy trains, and take it back after."""
    max_staleness: PositiveInt = 2
    """Versions (one for each step) that a token's weights may be older than those that a step trains; what would be
    older is sampled again."""
    allow_uncorrected: bool = False
    """Train on tokens of older weights also where a stage's loss does not weigh them: to measure what that costs."""
    max_carried_steps: PositiveInt = 2
    """A prompt that so many steps have carried is waited for, the oldest first. With `over_sampling` up to 2 none is
    carried through more steps; above, through ceil(over_sampling) - 2 more, for then more may be due than a step
    trains."""
    max_refused: NonNegativeInt = 16
    """Prompts that servers may refuse over a run; their groups are left out."""
    max_batch_size: PositiveInt = 256
    """Rows a server on a CPU generates at once."""
    environment: EnvironmentSection | None = None
    """None: the policy writes every token."""
    start_timeout_s: PositiveFloat = 240.0
    """Deadline for a server to become healthy, at the start and after a loss."""
    max_attempts: PositiveInt = 3
    """Times that a request is sent before its loss stops the run; the next attempt goes elsewhere."""
    max_restarts: NonNegativeInt = 3
    """Servers that a run may lose and start again, or wait for when they are external, within `restart_window_s`."""
    restart_window_s: PositiveFloat = 3600.0
    """Restarts longer ago than this no longer count: a run lasts weeks."""
    request_timeout_s: PositiveFloat = 600.0
    """Deadline for one generate request, queueing included."""
    silence_timeout_s: PositiveFloat = 120.0
    """A server that has requests, and of which nothing is heard for so long, is lost; they go elsewhere."""
    update_timeout_s: PositiveFloat = 300.0
    """Deadline for one weight update on one server."""


Cache = Literal["recompute", "keep"]


class SyncSection(Section):
    """How new weights reach the servers."""

    transport: Literal["disk", "distributed", "ipc"] = "disk"
    """`disk`: a folder that trainer and servers share; `distributed`: broadcast in a process group with the servers,
    NCCL or gloo; `ipc`: handles to GPU memory, for servers on the trainer's GPUs."""
    bucket_mib: PositiveInt = 256
    """Tensors that travel together, in MiB."""
    cache: Cache = "recompute"
    """What requests in flight do with the keys and values that they have cached when weights move: `recompute` them
    under the new weights (SGLang's retract), or `keep` those of the old ones and go on at once (in_place). Of a
    response that has kept some the log-prob check sees the tokens before the move only."""
    flatten: bool | None = None
    """Broadcast a bucket as one array: fewer starts, one copy more. None: on GPUs only."""
    verify_every: NonNegativeInt = 1
    """Every so many updates all servers' parameters are compared with ours by checksum, which finds a server that kept
    its old weights whatever the precision: at once with 1, within two updates with 2. 0: never, for servers that know
    no checksums or keep weights in another dtype."""
