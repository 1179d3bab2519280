"""A true run that is told to stop while it waits for numbers of a spare server, which answers nothing until then."""

import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from egrc_mega.rollout.start.process import embedded_server
from egrc_mega.soak.laws import require_same_weights
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.runs import events, finish_run, start_run

STAGE = {"method": "compress", "steps": 2, "clip_len": 72, "rollout": {"n": 2}}


def wait_for_checkpoint(run_dir: Path, run: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not (run_dir / "checkpoints" / "latest").exists():
        assert run.poll() is None and time.monotonic() < deadline, "the first step has not been committed"
        time.sleep(0.02)


@pytest.mark.full
def test_a_run_that_is_terminated_while_it_waits_for_numbers_is_resumed_to_the_same_end(
    root: Path, base_model: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        urls = []
        for name in ("sampling", "spare"):
            log = tmp_path / f"{name}.log"
            child = embedded_server(base_model, port=0, weight_version="start", max_batch_size=64, log=log)
            stack.callback(child.stop)
            urls.append(child.wait_until_ready(60))
        spare = stack.enter_context(FakeServer(upstream=urls[1]))
        beside = {"urls": [spare.url], "max_pending": 1}
        overrides = (
            "rollout.server=external",
            f"rollout.urls={orjson.dumps(urls[:1]).decode()}",
            "run.stop_grace_s=0",
            "checkpoint.every=1",
            *("evaluation.every=1", "evaluation.num_problems=2", "evaluation.temperatures=[0.6]"),
            *("evaluation.best={}", f"evaluation.spare={orjson.dumps(beside).decode()}"),
        )
        silent = [True]
        spare.waits = lambda path, _body: silent[0] and path == "/generate"
        run = start_run(root, tmp_path / "stopped", stages=[STAGE], overrides=overrides)
        # it comes no further: the numbers of the base are waited for before those of the first step may be asked for
        wait_for_checkpoint(tmp_path / "stopped", run)
        run.send_signal(signal.SIGTERM)
        assert "egrc: stopped by SIGTERM after step 1, which is committed; go on with --resume" in finish_run(run, 75)
        silent[0] = False
        finish_run(start_run(root, tmp_path / "stopped", "--resume", stages=[STAGE], overrides=overrides))
        finish_run(start_run(root, tmp_path / "whole", stages=[STAGE], overrides=overrides))
    assert [step["step"] for step in events(tmp_path / "stopped", "step")] == [1, 2]
    points = [orjson.loads((tmp_path / run / "evaluation.json").read_bytes()) for run in ("stopped", "whole")]
    assert points[0] == points[1] and len(points[0]["points"]) == 3
    require_same_weights(tmp_path / "stopped", tmp_path / "whole")
