"""Starts a run on this machine: in this process, under torchrun for several, or under a supervisor."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import psutil

from egrc_mega import relay
from egrc_mega.config.load import LoadedConfig, load_config
from egrc_mega.errors import PolicyError, Stopped
from egrc_mega.launch.loopback import ON_LOOPBACK
from egrc_mega.launch.supervisor import Supervisor
from egrc_mega.lock import holder_of, local_holder
from egrc_mega.observe.streams import bear_lost_streams
from egrc_mega.parent import die_with_parent
from egrc_mega.run_folder import LOCK, has_begun, move_aside
from egrc_mega.run_folder import check as check_folder
from egrc_mega.training.preflight import preflight, preflight_start

POLL_S = 1.0
MEETING_S = 900.0
"""Longest that another node waits for node 0, in seconds."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, and which of them this machine starts."""

    num_processes: int = 1
    """On this node."""
    num_nodes: int = 1
    node_rank: int = 0
    master_addr: str = "127.0.0.1"
    """Of node 0."""
    master_port: int = 29500

    @property
    def size(self) -> int:
        """Processes on all nodes together."""
        return self.num_processes * self.num_nodes

    def options(self) -> list[str]:
        """The options that torchrun takes."""
        if self.num_nodes == 1:
            return ["--rdzv-backend", ON_LOOPBACK, "--nproc-per-node", str(self.num_processes)]
        return [
            *("--nnodes", str(self.num_nodes), "--node-rank", str(self.node_rank)),
            *("--nproc-per-node", str(self.num_processes)),
            *("--master-addr", self.master_addr, "--master-port", str(self.master_port)),
        ]


def launch(
    config_files: Sequence[Path], overrides: Sequence[str], world: World, *, resume: bool | None, fresh: bool
) -> int:
    """Check everything that can be checked, then run this node's share; returns the exit code.

    Args:
        resume: go on with the run that the folder holds; None: if it holds one.

    Raises:
        Stopped: by SIGTERM; what was done is committed.
        EgrcError: nothing has been started or written yet, or a rank has said so.
    """
    loaded = _checked(config_files, overrides, world, resume=resume, fresh=fresh)
    config = loaded.config
    bear_lost_streams()
    if world.size > 1:
        return _run_torchrun(_arguments(config_files, overrides), config.run.dir, resume, world)
    from egrc_mega.train import train

    train(config, resume=resume, origins=loaded.provenance)
    return 0


def sample_only(config_files: Sequence[Path], overrides: Sequence[str], *, fresh: bool) -> int:
    """Check everything that can be checked, then sample without a trainer, in this process; returns the exit code.

    Raises:
        EgrcError: see `sample_rollouts`.
    """
    loaded = _checked(config_files, overrides, World(), resume=False, fresh=fresh)
    bear_lost_streams()
    from egrc_mega.training.sampling import sample_rollouts

    sample_rollouts(loaded.config)
    return 0


def supervise(
    config_files: Sequence[Path], overrides: Sequence[str], world: World, *, resume: bool | None, fresh: bool
) -> int:
    """`launch`, again and again: see `Supervisor`. From the second time on, and where the folder holds a run, it goes
    on."""
    config = _checked(config_files, overrides, world, resume=resume, fresh=fresh).config
    bear_lost_streams()
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "--resume-if-begun"]
    command += [*_arguments(config_files, overrides), "--nproc-per-node", str(world.num_processes)]
    if world.num_nodes > 1:
        command += ["--nnodes", str(world.num_nodes), "--node-rank", str(world.node_rank)]
        command += ["--master-addr", world.master_addr, "--master-port", str(world.master_port)]
    return Supervisor(command, config.run.dir, config.supervisor, keeps_record=world.node_rank == 0).run()


def _checked(
    config_files: Sequence[Path], overrides: Sequence[str], world: World, *, resume: bool | None, fresh: bool
) -> LoadedConfig:
    """The configuration, when nothing is known that speaks against the run. The folder is node 0's business."""
    loaded = load_config(config_files, overrides)
    config = loaded.config
    preflight(config, world.size, world.num_processes)
    preflight_start(config, starts_servers=world.node_rank == 0)
    if world.node_rank == 0:
        if fresh and (aside := move_aside(config.run.dir)):
            print(f"the earlier run is now {aside}", flush=True)
        check_folder(config.run.dir, resume=has_begun(config.run.dir) if resume is None else resume)
    return loaded


def _arguments(config_files: Sequence[Path], overrides: Sequence[str]) -> list[str]:
    files = [part for file in config_files for part in ("--config", str(file.resolve()))]
    return files + [part for override in overrides for part in ("--set", override)]


def _run_torchrun(arguments: Sequence[str], run_dir: Path, resume: bool | None, world: World) -> int:
    if world.node_rank:
        meet_node_0(world)
    # -P and an absolute path: the working directory must not shadow installed packages
    command = [sys.executable, "-P", "-m", "egrc_mega.launch.agent", "--max-restarts", "0", *world.options()]
    command += ["-m", "egrc_mega.train", *arguments]
    command += {True: ["--resume"], False: [], None: ["--resume-if-begun"]}[resume]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryDirectory(prefix="egrc-launch-") as scratch:
        error_file = Path(scratch) / "error.json"
        process = subprocess.Popen(
            command,
            env=environment | {relay.VARIABLE: str(error_file)},
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        asked = _pass_on_signals(process, run_dir, world.node_rank)
        exit_code = _wait(process)
        relay.raise_reported(error_file)
        if asked and exit_code:
            raise Stopped("stopped before the run had begun; nothing is lost")
    if exit_code < 0:
        print(f"egrc: torchrun was killed by signal {-exit_code}", file=sys.stderr, flush=True)
        return 128 - exit_code
    return exit_code


def meet_node_0(world: World) -> None:
    """Wait until node 0 listens; torchrun would wait as long in silence, and end with the frames of its C++.

    Raises:
        PolicyError: it does not within `MEETING_S`.
    """
    place, deadline = f"{world.master_addr}:{world.master_port}", time.monotonic() + MEETING_S
    who = f"node {world.node_rank} of {world.num_nodes}"
    print(f"{who} waits for node 0 at {place}, for {MEETING_S:g} s at most", flush=True)
    while True:
        try:
            socket.create_connection((world.master_addr, world.master_port), timeout=POLL_S).close()
            return
        except OSError as error:
            problem = error.strerror or str(error)
        if time.monotonic() > deadline:
            raise PolicyError(
                f"{who} has not met node 0 at {place} within {MEETING_S:g} s ({problem}); start the command on node 0, "
                f"too, and let --master-addr and --master-port lead there"
            )
        time.sleep(POLL_S)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """The exit code of torchrun's agent. One that somebody has stopped, and whose ranks have ended, is run on."""
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if _is_stopped_without_ranks(process.pid):
                process.send_signal(signal.SIGCONT)


def _is_stopped_without_ranks(pid: int) -> bool:
    try:
        agent = psutil.Process(pid)
        is_stopped = agent.status() == psutil.STATUS_STOPPED
        return is_stopped and all(child.status() == psutil.STATUS_ZOMBIE for child in agent.children())
    except psutil.Error:  # it has just ended
        return False


def _pass_on_signals(process: "subprocess.Popen[bytes]", run_dir: Path, node_rank: int = 0) -> list[int]:
    """Pass on what this process is sent; the list, which grows, tells what that was.

    torchrun would kill its ranks some seconds after a SIGTERM, so the first one goes to rank 0 itself, by the node that
    has started it: it ends all ranks together. The other nodes, which are sent one as well, let theirs pass.
    """
    numbers: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        numbers.append(number)
        is_first_wish = numbers == [signal.SIGTERM]
        rank_0 = local_holder(run_dir / LOCK) if is_first_wish and node_rank == 0 else None
        if rank_0 is not None:
            os.kill(rank_0, number)
        elif not (is_first_wish and holder_of(run_dir / LOCK)):
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    return numbers
