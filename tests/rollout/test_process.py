"""Servers as child processes: ports, deadlines, early ends, orphans."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil
import pytest

from egrc_mega.errors import ConfigError, RolloutError, has_waited_in_vain
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.start.process import ServerProcess, embedded_server
from egrc_mega.rollout.start.sglang import launch_sglang
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.soak.laws import require_no_process
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.tiny_model import write_tiny_qwen2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"))


def test_a_port_in_use_is_one_clear_line(model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RolloutError) as caught:
            Fleet.start(RolloutSection(port=port), model, "v0", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"rollout.port: 127.0.0.1:{port} cannot be used: Address already in use" in message
    assert "exit code 5" in message


def test_a_server_that_ends_early_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match=r"ended with exit code 1: see .*server_0\.log; it ends with: .*nowhere"):
        Fleet.start(RolloutSection(), tmp_path / "nowhere", "v0", tmp_path)


def test_a_server_that_never_comes_up_misses_its_deadline(model: Path, tmp_path: Path) -> None:
    server = embedded_server(model, port=0, weight_version="v0", max_batch_size=16, log=tmp_path / "log")
    try:
        os.kill(server.process.pid, signal.SIGSTOP)
        with pytest.raises(RolloutError, match=r"did not come up within rollout\.start_timeout_s = 0\.3 s") as error:
            server.wait_until_ready(0.3)
        assert has_waited_in_vain(error.value)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
        server.stop()
    assert not psutil.pid_exists(server.process.pid)


def test_an_external_server_that_is_not_there_is_named(model: Path, tmp_path: Path) -> None:
    section = RolloutSection(server="external", urls=("http://127.0.0.1:9",))
    with pytest.raises(RolloutError, match=r"rollout\.urls: http://127\.0\.0\.1:9 does not answer /health"):
        Fleet.start(section, model, "v0", tmp_path)


def test_servers_that_nobody_waits_for_serve_once_they_are_waited_for(tmp_path: Path) -> None:
    with FakeServer() as fake:
        fake.is_ill = True
        section = RolloutSection(server="external", urls=(fake.url,))
        with Fleet.start(section, tmp_path, "v0", tmp_path, waits=False) as fleet:
            assert not fleet.servers[0].is_serving
            fake.is_ill = False
            fleet.wait_until_ready()
            assert fleet.servers[0].is_serving


def test_a_server_dies_with_its_parent_even_while_it_is_stopped(model: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from egrc_mega.rollout.start.process import embedded_server\n"
        "model, log = map(Path, sys.argv[1:])\n"
        "server = embedded_server(model, port=0, weight_version='v0', max_batch_size=16, log=log)\n"
        "server.wait_until_ready(240)\n"
        "print(server.process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-P", "-c", script, str(model), str(tmp_path / "log")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    child.suspend()  # it reads no end of file
    parent.kill()
    parent.wait()
    require_no_process([child])


def test_a_server_of_our_own_is_not_mistaken_for_a_stranger_on_its_port(tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with FakeServer("start-theirs") as stranger:
        for version, is_ours in (("start-ours", False), ("start-theirs", True)):
            child = ServerProcess(sleeping, tmp_path / "log", url=stranger.url, weight_version=version)
            try:
                with nullcontext() if is_ours else pytest.raises(RolloutError, match="did not come up"):
                    assert child.wait_until_ready(1.0) == stranger.url
            finally:
                child.stop()


@contextmanager
def listener(answer: bytes) -> Iterator[str]:
    """Says the same to everybody; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as here:

        def talk() -> None:
            with suppress(OSError):
                while True:
                    caller, _address = here.accept()
                    with caller:
                        caller.sendall(answer)

        threading.Thread(target=talk, daemon=True).start()
        yield f"http://127.0.0.1:{here.getsockname()[1]}"


def test_strangers_that_talk_otherwise_or_point_elsewhere_are_no_servers_of_ours_and_learn_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGRC_API_KEY", "secret")
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with FakeServer("start-ours") as elsewhere:
        place = f"Location: {elsewhere.url}/model_info"
        pointer = f"HTTP/1.1 302 Found\r\n{place}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        for answer in ("SSH-2.0-stranger\r\n", pointer):
            with listener(answer.encode()) as url:
                child = ServerProcess(sleeping, tmp_path / "log", url=url, weight_version="start-ours")
                try:
                    with pytest.raises(RolloutError, match="did not come up"):
                        child.wait_until_ready(1.0)
                finally:
                    child.stop()
        assert elsewhere.num_asked == 0


def test_a_server_that_has_ended_is_not_ready_whoever_answers_in_its_place(tmp_path: Path) -> None:
    with FakeServer("start-ours") as twin:
        child = ServerProcess([sys.executable, "-c", ""], tmp_path / "log", url=twin.url, weight_version="start-ours")
        child.process.wait(30)
        with pytest.raises(RolloutError, match="the rollout server ended with exit code 0"):
            child.wait_until_ready(5.0)
        child.stop()


def test_a_full_disk_does_not_end_a_server() -> None:
    talking = [sys.executable, "-c", "for i in range(100000): print(i)"]
    with open("/dev/full", "wb") as full:
        guard = [sys.executable, "-P", "-m", "egrc_mega.rollout.start.guard", *talking]
        process = subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=full)
        assert process.wait(60) == 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_environment_of_sglangs_servers_is_locked_to_the_last_package(device: str, root: Path) -> None:
    lines = (root / "scripts" / "serve" / f"{device}.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.+]+", pin, re.IGNORECASE)] == []
    names = [pin.partition("==")[0] for pin in pins]
    assert len(names) == len(set(names))
    assert ("sglang==0.5.23" in pins) == (device == "cuda")  # on a CPU it comes without its dependencies


def test_each_server_gets_its_own_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def visible(number: int, **fields: object) -> str:
        section = RolloutSection(
            server="sglang", device="cuda", num_servers=2, tensor_parallel_size=2, python=Path(sys.executable), **fields
        )
        launch = launch_sglang(section, tmp_path, port=9, number=number, weight_version="v0")
        return launch.environment["CUDA_VISIBLE_DEVICES"]

    assert [visible(number) for number in (0, 1)] == ["0,1", "2,3"]
    assert [visible(number, gpus=(7, 6, 5, 4)) for number in (0, 1)] == ["7,6", "5,4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,GPU-8a7b")  # a job's share of a machine
    assert [visible(number) for number in (0, 1)] == ["4,5", "6,GPU-8a7b"]
    with pytest.raises(ConfigError, match=r"rollout\.gpus: there is no GPU 4 among the 4 of CUDA_VISIBLE_DEVICES"):
        visible(1, gpus=(0, 1, 2, 4))
