"""Starts a run on this machine: in this process, or under torchrun for several."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from egrc_mega import relay
from egrc_mega.config.load import load_config
from egrc_mega.observe.streams import bear_lost_streams
from egrc_mega.parent import die_with_parent
from egrc_mega.run_folder import check as check_folder
from egrc_mega.run_folder import move_aside
from egrc_mega.training.preflight import preflight


def launch(
    config_files: Sequence[Path], overrides: Sequence[str], *, resume: bool, fresh: bool, num_processes: int
) -> int:
    """Check everything that can be checked, then run; returns the exit code.

    Raises:
        EgrcError: nothing has been started or written yet.
    """
    config = load_config(config_files, overrides).config
    preflight(config, num_processes, num_processes)
    if fresh and (aside := move_aside(config.run.dir)):
        print(f"the earlier run is now {aside}", flush=True)
    check_folder(config.run.dir, resume=resume)
    bear_lost_streams()
    if num_processes > 1:
        return _run_torchrun(config_files, overrides, resume, num_processes)
    from egrc_mega.train import train

    train(config, resume=resume)
    return 0


def _run_torchrun(config_files: Sequence[Path], overrides: Sequence[str], resume: bool, num_processes: int) -> int:
    # -P and an absolute path: the working directory must not shadow installed packages
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--max-restarts", "0"]
    command += ["--nproc-per-node", str(num_processes), "-m", "egrc_mega.train"]
    command += [part for file in config_files for part in ("--config", str(file.resolve()))]
    command += [part for override in overrides for part in ("--set", override)]
    command += ["--resume"] if resume else []
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONSAFEPATH": "1"}
    with tempfile.TemporaryDirectory(prefix="egrc-launch-") as scratch:
        error_file = Path(scratch) / "error.json"
        process = subprocess.Popen(
            command,
            env=environment | {relay.VARIABLE: str(error_file)},
            preexec_fn=partial(die_with_parent, os.getpid()),
        )

        def forward(number: int, _frame: FrameType | None) -> None:
            process.send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, forward)
        exit_code = process.wait()
        relay.raise_reported(error_file)
    return exit_code
