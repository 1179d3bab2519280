"""`egrc serve`: servers without a run, one that dies, a look at them, and their end."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from egrc_mega.errors import ConfigError
from egrc_mega.launch.serve import announced_address, serve, status
from egrc_mega.rollout.start.discovery import find_servers
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.soak.laws import require_no_process
from egrc_mega.soak.processes import server, working_in
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.forked import popen, run

EGRC = (sys.executable, "-P", "-m", "egrc_mega.cli.main")


def test_servers_are_started_watched_restarted_and_stopped(root: Path, tmp_path: Path) -> None:
    command = [*EGRC, "serve", "-c", str(root / "configs/quickstart.yaml"), "--set", f"run.dir={tmp_path / 'run'}"]
    shared = tmp_path / "shared"
    command += ["--set", "rollout.num_servers=2", "--set", f"rollout.announce_dir={shared}"]
    process = popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        urls = re.findall(r"http://[\d.:]+", first)
        assert len(urls) == 2
        assert f"# logs: {tmp_path}/run/serve/" in first and first.endswith("; Ctrl-C or SIGTERM ends them\n")
        assert find_servers(RolloutSection(server="external", announce_dir=shared, num_servers=2)) == sorted(urls)
        looked = run([*EGRC, "serve", "status", *urls])
        assert looked.returncode == 0, looked.stdout
        assert looked.stdout.count("healthy, weights start") == 2
        victim = server(tmp_path, 0)
        assert victim is not None
        victim.kill()
        lost, back = process.stdout.readline(), process.stdout.readline()
        assert re.match(r"server (\d) is fenced: http://\S+ has ended or is silent", lost)
        assert back == f"server {lost[7]} serves again, at {re.findall(r'http://[0-9.:]+', lost)[0]}\n"
        lines, all_well = status(urls)  # where they were
        assert all_well, lines
        family = working_in(tmp_path)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    require_no_process(family, 15)
    assert list(shared.iterdir()) == []


def test_control_c_ends_servers_and_announcements_too(root: Path, tmp_path: Path) -> None:
    command = [*EGRC, "serve", "-c", str(root / "configs/quickstart.yaml"), "--set", f"run.dir={tmp_path / 'run'}"]
    command += ["--set", f"rollout.announce_dir={tmp_path / 'shared'}"]
    process = popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None and "rollout.urls=[" in process.stdout.readline()
    family = [each for each in working_in(tmp_path) if each.pid != process.pid]
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert len(family) == 1
    require_no_process(family, 15)
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_server_for_all_machines_is_announced_by_a_name_that_others_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    for full, name in (("localhost.localdomain", "node7"), ("node7.cluster", "node7.cluster")):
        monkeypatch.setattr(socket, "getfqdn", lambda full=full: full)
        assert announced_address("http://127.0.0.1:30000", "0.0.0.0") == f"http://{name}:30000"
    assert announced_address("http://10.0.0.7:30000", "10.0.0.7") == "http://10.0.0.7:30000"


def test_a_server_that_is_not_there_is_a_line_and_an_exit_code() -> None:
    with FakeServer() as fake:
        lines, all_well = status([fake.url, "http://127.0.0.1:9"])
    assert not all_well
    assert lines[1].endswith("is gone while waiting for model info: Connection refused")


def test_external_servers_are_not_ours_to_start(root: Path) -> None:
    overrides = ["rollout.server=external", "rollout.urls=[http://127.0.0.1:9]"]
    with pytest.raises(ConfigError, match=r"rollout\.server: external servers are started by somebody else"):
        serve(root / "configs/quickstart.yaml", overrides)
