"""The wall clock may jump by years, back and forth: it is written down, and nothing waits by it."""

import ast
import itertools
import time
from pathlib import Path

import pytest

from egrc_mega import train as train_module
from egrc_mega.config.config import Config
from egrc_mega.grading.pool import GraderPool
from egrc_mega.grading.worker import Budget
from egrc_mega.launch.deaths import Death, judge
from egrc_mega.observe.events import EventLog, read_steps
from egrc_mega.observe.hangs import HangWatch, introduction
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sections.supervisor import SupervisorSection
from egrc_mega.testing.fake_run import FakeRun, Notes
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.types import NO_HINTS, Grade, RolloutRequest, Sampling

STAMPS = {"observe/spans.py", "observe/events.py", "observe/run_log.py"}
"""Who reads the wall clock to write it down."""
YEAR_S = 365.25 * 86400
READS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


def readers(root: Path) -> set[str]:
    """Files of the product that read the wall clock."""
    found = set()
    for file in sorted((root / "egrc_mega").rglob("*.py")):
        name = file.relative_to(root / "egrc_mega").as_posix()
        for node in () if name.startswith("testing/") else ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                called = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                found |= {name} if (called, node.func.attr) in READS else set()
    return found


def test_only_what_is_written_down_is_read_from_the_wall_clock(root: Path) -> None:
    days = {"data/tokenizer.py", "data/template.py", "data/render.py"}  # a template may be told the date
    shown_only = {
        "report/build.py",
        "report/live.py",
        "launch/status.py",
        "launch/doctor/system.py",
        "training/live.py",
    }
    among_events = {"soak/round.py"}  # when a fault has struck, among the stamps of the run's events
    assert STAMPS <= readers(root) <= STAMPS | days | shown_only | among_events


@pytest.fixture
def jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each look at it the wall clock is ten years ahead, or behind."""
    real, years = time.time, itertools.cycle((10, -10))
    monkeypatch.setattr(time, "time", lambda: real() + next(years) * YEAR_S)


def notes_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What a run of four steps does, its records aside, which say when."""
    config = Config(
        run={"dir": folder / "run"},
        model={"path": folder},
        data={"train": folder / "train.jsonl"},
        evaluation={"data": folder / "eval.jsonl", "every": 1},
        stages=[{"method": "compress", "steps": 4, "clip_len": 8}],
        checkpoint={"every": 2},
    )
    run = FakeRun(config, Notes())
    monkeypatch.setattr(train_module, "Run", lambda config, resume: run)
    monkeypatch.setattr(train_module, "build_report", lambda folder: folder)
    train_module.train(config, resume=False)
    return [note for note in run.notes if note[0] in ("collect", "update", "save", "publish", "point", "export")]


@pytest.mark.usefixtures("world_of_one")
def test_a_run_under_a_clock_that_jumps_does_what_it_does_under_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    undisturbed = notes_of(tmp_path, monkeypatch)
    request.getfixturevalue("jumps")
    ended: list[Exception] = []
    watch = HangWatch(tmp_path, 0, [introduction()], 600.0, "policy.distributed_timeout_s", end=ended.append)
    watch.poll_s = 0.01
    with watch:
        assert notes_of(tmp_path, monkeypatch) == undisturbed
        time.sleep(0.1)  # ten looks of the watch
    assert ended == []


@pytest.mark.usefixtures("jumps")
def test_servers_graders_and_restarts_wait_as_long_as_they_say_under_a_clock_that_jumps(tmp_path: Path) -> None:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=())
    requests = [
        RolloutRequest(rid=f"r{n}", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=sampling, seed=n) for n in range(4)
    ]
    with FakeServer() as fake:
        section = RolloutSection(server="external", urls=(fake.url,), request_timeout_s=600, silence_timeout_s=600)
        with Fleet.start(section, tmp_path, "v0", tmp_path, vocab_size=1000) as fleet:
            fake.delay_s = 0.1
            assert len(fleet.generate(requests)) == 4
            assert fleet.take_stats()["lost_requests"] == 0
    with GraderPool(1, Budget(cpu_s=600, timeout_s=600)) as pool:
        (verdict,) = pool.grade([("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}", NO_HINTS)])
        assert verdict.grade is Grade.RIGHT
    with EventLog(tmp_path / "metrics.jsonl") as events:
        for step in (1, 2):
            events.write("step", step=step)
    assert [event["step"] for event in read_steps(tmp_path / "metrics.jsonl")] == [1, 2]
    died = [Death(1, step, time.monotonic()) for step in range(3)]
    assert judge(died, SupervisorSection(max_restarts=3, restart_window_s=3600)).wait_s is not None
