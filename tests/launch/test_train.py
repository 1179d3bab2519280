"""What `egrc train` starts for one machine and for several, and whom it passes signals on to."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from egrc_mega.errors import ConfigError, PolicyError
from egrc_mega.launch import train
from egrc_mega.launch.loopback import ON_LOOPBACK
from egrc_mega.launch.train import World, launch, supervise
from egrc_mega.lock import Lock, local_holder
from egrc_mega.parent import end_stopped_children
from egrc_mega.run_folder import LOCK


class Child:
    """In place of torchrun's process: remembers its signals."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def send_signal(self, number: int) -> None:
        self.numbers.append(number)


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


HOLD = """
import signal, sys
from pathlib import Path
from egrc_mega.lock import Lock
lock = Lock.take(Path(sys.argv[1]))
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: print("heard", flush=True))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def rank_0(tmp_path: Path):
    """A process that holds the run's lock and says when it is sent SIGTERM."""
    command = [sys.executable, "-P", "-c", HOLD, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.communicate()


@pytest.mark.usefixtures("handlers")
def test_a_first_sigterm_goes_to_rank_0_and_a_second_to_torchrun(tmp_path: Path, rank_0: subprocess.Popen) -> None:
    child = Child()
    train._pass_on_signals(child, tmp_path)
    os.kill(os.getpid(), signal.SIGTERM)
    assert rank_0.stdout.readline() == "heard\n" and child.numbers == []
    os.kill(os.getpid(), signal.SIGTERM)
    assert child.numbers == [signal.SIGTERM]


@pytest.mark.usefixtures("handlers")
def test_a_torchrun_that_is_killed_is_told_with_the_code_that_shells_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    killed = SimpleNamespace(Popen=lambda *_command, **_options: subprocess.Popen(["sh", "-c", "kill -9 $$"]))
    monkeypatch.setattr(train, "subprocess", killed)
    assert train._run_torchrun([], tmp_path, None, World(2)) == 137
    assert capfd.readouterr().err == "egrc: torchrun was killed by signal 9\n"


@pytest.mark.usefixtures("handlers")
def test_control_c_goes_to_torchrun_at_once(tmp_path: Path, rank_0: subprocess.Popen) -> None:
    child = Child()
    train._pass_on_signals(child, tmp_path)
    os.kill(os.getpid(), signal.SIGINT)
    assert child.numbers == [signal.SIGINT]


@pytest.mark.usefixtures("handlers")
def test_an_agent_that_is_stopped_is_run_on_once_its_ranks_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "POLL_S", 0.01)
    stopped_for_ever = "sleep 0.3 & kill -STOP $$; wait; exit 7"
    with subprocess.Popen(["sh", "-c", stopped_for_ever]) as agent:
        rank = psutil.Process(agent.pid)
        while not rank.children():
            time.sleep(0.01)
        (rank,) = rank.children()
        code = train._wait(agent)
        assert code == 7 and not rank.is_running()


def test_an_agent_whose_ranks_are_at_work_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sh", "-c", "sleep 600 & kill -STOP $$"]) as agent:
        process = psutil.Process(agent.pid)
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        (rank,) = process.children()
        assert not train._is_stopped_without_ranks(agent.pid)
        rank.kill()
        while rank.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert train._is_stopped_without_ranks(agent.pid)
        agent.kill()
    assert not train._is_stopped_without_ranks(agent.pid)


def test_children_that_are_stopped_end_with_the_run_and_others_are_left_alone() -> None:
    with subprocess.Popen(["sleep", "600"]) as stopped, subprocess.Popen(["sleep", "600"]) as other:
        stopped.send_signal(signal.SIGSTOP)
        while psutil.Process(stopped.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        end_stopped_children()
        assert stopped.wait(60) == -signal.SIGKILL and other.poll() is None
        other.kill()


def test_before_there_is_a_rank_0_torchrun_is_told(tmp_path: Path) -> None:
    child = Child()
    train._pass_on_signals(child, tmp_path)
    os.kill(os.getpid(), signal.SIGTERM)
    assert child.numbers == [signal.SIGTERM]


@pytest.mark.usefixtures("handlers")
def test_where_rank_0_is_on_another_machine_its_own_launcher_tells_it(
    tmp_path: Path, rank_0: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child()
    train._pass_on_signals(child, tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert local_holder(tmp_path / LOCK) is None
    os.kill(os.getpid(), signal.SIGTERM)
    assert child.numbers == []


@pytest.mark.usefixtures("handlers")
def test_another_node_on_the_same_machine_tells_rank_0_nothing_which_would_be_a_second_wish(
    tmp_path: Path, rank_0: subprocess.Popen
) -> None:
    child = Child()
    train._pass_on_signals(child, tmp_path, node_rank=1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert child.numbers == []
    assert rank_0.communicate()[0] == ""  # it has heard nothing


def test_the_holder_of_a_lock_is_known_to_itself_and_nobody_holds_a_free_one(tmp_path: Path) -> None:
    assert local_holder(tmp_path / LOCK) is None
    lock = Lock.take(tmp_path / LOCK)
    assert lock is not None and local_holder(tmp_path / LOCK) == os.getpid()
    lock.release()
    assert local_holder(tmp_path / LOCK) is None


def test_torchrun_stands_alone_on_one_machine_and_meets_node_0_on_several() -> None:
    assert World(4).options() == ["--rdzv-backend", ON_LOOPBACK, "--nproc-per-node", "4"]
    world = World(8, 2, 1, "node0", 1234)
    assert world.size == 16
    options = "--nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr node0 --master-port 1234"
    assert world.options() == options.split()


def test_a_node_says_whom_it_waits_for_and_ends_with_one_line_when_nobody_comes(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(8, 2, 1, "127.0.0.1", free_port)
    monkeypatch.setattr(train, "MEETING_S", 0.02)
    monkeypatch.setattr(train, "POLL_S", 0.01)
    with pytest.raises(
        PolicyError, match=r"node 1 of 2 has not met node 0 at 127.0.0.1:\d+ within 0.02 s \(Connection"
    ):
        train.meet_node_0(world)
    assert f"node 1 of 2 waits for node 0 at 127.0.0.1:{free_port}, for 0.02 s at most" in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", free_port)):
        train.meet_node_0(world)


@pytest.mark.parametrize("start", [launch, supervise])
def test_what_cannot_run_is_refused_before_anything_is_started(root: Path, tmp_path: Path, start) -> None:
    overrides = [f"run.dir={tmp_path / 'run'}", "megatron.tensor_model_parallel_size=3"]
    with pytest.raises(ConfigError, match="tensor_model_parallel_size"):
        start([root / "configs/quickstart.yaml"], overrides, World(), resume=None, fresh=False)
    assert not (tmp_path / "run").exists()


def test_the_supervised_command_goes_on_where_there_is_a_run_and_names_its_node(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    class Recorder:
        def __init__(self, command: list[str], run_dir: Path, rules: object, *, keeps_record: bool) -> None:
            seen.update(command=command, run_dir=run_dir, keeps_record=keeps_record)

        def run(self) -> int:
            return 75

    monkeypatch.setattr(train, "Supervisor", Recorder)
    config, overrides = root / "configs/quickstart.yaml", [f"run.dir={tmp_path / 'run'}", "run.seed=3"]
    world = World(1, 2, 1, "node0", 1234)
    assert supervise([config], overrides, world, resume=False, fresh=False) == 75
    assert seen["run_dir"] == tmp_path / "run" and seen["keeps_record"] is False
    options = f"--config {config} --set {overrides[0]} --set run.seed=3 --nproc-per-node 1"
    node = "--nnodes 2 --node-rank 1 --master-addr node0 --master-port 1234"
    assert seen["command"][1:] == f"-P -m egrc_mega.cli.main train --resume-if-begun {options} {node}".split()
