"""A trainer that is killed takes its servers, graders and ranks with it. Its processes are true ones, as a user's."""

import time
from pathlib import Path

import psutil
import pytest

from egrc_mega.run_folder import RunFolder
from egrc_mega.soak.laws import require_no_process
from egrc_mega.testing.runs import start_run

pytestmark = [pytest.mark.program, pytest.mark.long_file]  # true processes import everything again
SECRETS = {name: f"{name}-c0ffee-4711" for name in ("EGRC_API_KEY", "EGRC_ADMIN_API_KEY", "WANDB_API_KEY")}


@pytest.mark.usefixtures("true_processes")
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_killed_trainer_leaves_no_process_behind(root: Path, tmp_path: Path, num_ranks: int) -> None:
    """Of two ranks the command is killed that has started torchrun, which has started them."""
    endless = ("stages.compress.steps=100000",)
    ranks = ("--nproc-per-node", str(num_ranks))
    process = start_run(root, tmp_path / "run", *ranks, overrides=endless, variables=SECRETS)
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 250  # for a busy machine
    while not (log.exists() and b'"evaluation"' in log.read_bytes()):
        assert time.monotonic() < deadline, "the run did not reach its first evaluation"
        assert process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("egrc_mega.embedded" in child.cmdline() for child in children)
    assert not any("c0ffee-4711" in part for child in children for part in child.cmdline())
    process.kill()
    require_no_process(children)
    with RunFolder.claim(tmp_path / "run", resume=True):
        pass
    process.communicate(timeout=10)
