"""A true run in async mode: its trace shows what goes on beside training. Signals force the order, not time.

The run stops itself once its second step trains; until then its server takes no bucket of the first step's weights, and
owes the responses that only the third step needs.
"""

import re
import signal
import subprocess
import time
from pathlib import Path

import orjson
import psutil
import pytest

from egrc_mega.faults import ONCE
from egrc_mega.observe.trace import write_trace
from egrc_mega.rollout.start.process import embedded_server
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.runs import events, finish_run, start_run

STAGE = {"method": "compress", "steps": 3, "clip_len": 72, "rollout": {"n": 2}, "loss": {"tis_cap": 2}}
PROMPTS = 2
OVERRIDES = (
    f"rollout.prompts_per_step={PROMPTS}",
    "rollout.mode=async",
    "rollout.server=external",
    "sync.transport=distributed",
    "checkpoint.every=1",
    "checkpoint.asynchronous=true",
    "evaluation.num_problems=2",
    "evaluation.max_new_tokens=20",
)
Bar = tuple[str, float, float]
"""Name, begin and end, in microseconds."""


class Owing:
    """What the server keeps back until the run trains its second step."""

    def __init__(self) -> None:
        self.is_over = False

    def __call__(self, path: str, body: bytes) -> bool:
        if self.is_over:
            return False
        if path == "/generate":
            problem = re.search(rb"-problem(\d+)-", body)
            return problem is not None and int(problem[1]) >= 2 * PROMPTS
        return path == "/update_weights_from_distributed" and orjson.loads(body)["weight_version"].startswith("v1")


def await_stop(run: "subprocess.Popen[str]") -> None:
    process, deadline = psutil.Process(run.pid), time.monotonic() + 240
    while process.status() != psutil.STATUS_STOPPED:
        assert run.poll() is None and time.monotonic() < deadline, "the second step has not been trained"
        time.sleep(0.01)


def bars_of(trace: Path) -> dict[str, list[Bar]]:
    """By process and thread."""
    told = orjson.loads(trace.read_bytes())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in told if e["name"] == "thread_name"}
    found: dict[str, list[Bar]] = {}
    for e in told:
        if e["ph"] == "X":
            row = "rank" if e["pid"] == 1 else "server"
            key = f"{row} {re.sub(r' [0-9]+$', '', names[e['pid'], e['tid']])}"
            found.setdefault(key, []).append((e["name"], e["ts"], e["ts"] + e["dur"]))
    return found


@pytest.fixture(scope="module")
def run_dir(root: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, owing = tmp_path_factory.mktemp("overlap"), Owing()
    child = embedded_server(base_model, port=0, weight_version="start", max_batch_size=64, log=folder / "server.log")
    try:
        with FakeServer(upstream=child.wait_until_ready(60)) as server:
            server.waits = owing
            overrides = (*OVERRIDES, f'rollout.urls=["{server.url}"]')
            how = {"overrides": overrides, "faults": "policy.forward@2=SIGSTOP", "variables": {ONCE: str(folder)}}
            run = start_run(root, folder / "run", stages=[STAGE], **how)
            await_stop(run)
            owing.is_over = True
            run.send_signal(signal.SIGCONT)
            finish_run(run)
    finally:
        child.stop()
    return folder / "run"


def test_the_trace_of_an_asynchronous_step_shows_what_goes_on_beside_its_training(run_dir: Path) -> None:
    bars = bars_of(write_trace(run_dir, 2, None)[0])
    [train] = [bar for bar in bars["rank MainThread"] if bar[0] == "train"]

    def overlapping(row: str) -> set[str]:
        return {name for name, begin, end in bars[row] if begin < train[2] and end > train[1]}

    assert {name for name, *_ in bars["rank MainThread"]} >= {"rollout", "credit", "train", "sync", "checkpoint"}
    # of the first step's weights: copied to the host by the main thread, brought to the servers beside it
    [sync] = bars["rank sync"][:1]
    assert sync[1] < train[1] < sync[2]
    assert any("-problem000004-" in name for name in overlapping("server request"))
    # its checkpoint, too, is written beside it
    assert bars["rank checkpoint"][0][0] == "checkpoint"


def test_grading_goes_on_beside_the_trainer_and_steps_see_the_weights_that_they_should(run_dir: Path) -> None:
    spans = [span for event in events(run_dir, "spans") for span in event["spans"]]
    assert {span["thread"] for span in spans if span["name"] == "grade"} == {"sampler"}
    published = [span["facts"]["version"] for span in spans if span["name"] == "sync" and span["thread"] == "sync"]
    assert published[:3] == ["v0", "v1", "v2"]  # the last one may arrive after the last step was recorded
    steps = events(run_dir, "step")
    assert [step["weight_version"] for step in steps] == ["v0", "v1", "v2"]
    assert all(step["version_lag_max"] <= 2 for step in steps)
