"""A run folder belongs to one living process; nothing in it is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from egrc_mega.errors import RunError
from egrc_mega.launch.stop import stop
from egrc_mega.lock import Lock, holder_of
from egrc_mega.observe.trace import write_trace
from egrc_mega.report.build import build_report
from egrc_mega.run_folder import STOP, SUPERVISED, RunFolder, check, is_held, move_aside
from egrc_mega.trackers.process import feed

HOLDER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from egrc_mega.run_folder import RunFolder\n"
    "with RunFolder.claim(Path(sys.argv[1]), resume=False):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


HOLDER_WITH_A_FORK = HOLDER.replace(
    "    time.sleep(600)",
    "    child = os.fork()\n    if child:\n        print(child, flush=True)\n    time.sleep(600)",
).replace("import sys, time", "import os, sys, time")


def hold(path: Path, script: str = HOLDER) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-P", "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_another_run_holds_is_refused_with_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    holder = hold(run)
    try:
        for refused in (lambda: RunFolder.claim(run, resume=False), lambda: move_aside(run)):
            with pytest.raises(RunError, match=rf"run\.dir: .* is held by process {holder.pid} on \S+; wait"):
                refused()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_held(run)
    with RunFolder.claim(run, resume=False):
        assert is_held(run)
    assert not is_held(run)


def test_a_folder_of_which_nothing_has_come_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="refused"), RunFolder.claim(tmp_path / "new", resume=False):
        raise RunError("refused")
    (tmp_path / "old").mkdir()
    for name, file in (("old", None), ("kept", "run.log")):
        with RunFolder.claim(tmp_path / name, resume=False) as folder:
            if file:
                (folder.path / file).touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "old"]


def test_a_child_that_a_holder_has_forked_does_not_hold_the_folder_after_its_death(tmp_path: Path) -> None:
    run = tmp_path / "run"
    holder = hold(run, HOLDER_WITH_A_FORK)
    assert holder.stdout is not None
    child = psutil.Process(int(holder.stdout.readline()))
    try:
        assert is_held(run)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert child.is_running()
        with RunFolder.claim(run, resume=False):
            pass
    finally:
        child.kill()


def test_a_lock_names_no_process_that_has_ended(tmp_path: Path) -> None:
    """Between a taker's lock and its name the last holder's name is still there."""
    path = tmp_path / ".lock"
    holder = hold(tmp_path)
    try:
        gone = json.dumps({"pid": 99999999, "started": 0, "host": socket.gethostname()})
        for dead in (gone, "10849", ""):
            path.write_text(dead)
            assert holder_of(path) == "another process"
        mine = psutil.Process().create_time()
        path.write_text(json.dumps({"pid": os.getpid(), "started": mine - 100, "host": socket.gethostname()}))
        assert holder_of(path) == "another process"  # a number that was given again
        path.write_text('{"pid": 7, "started": 0, "host": "another-machine"}')
        assert holder_of(path) == "process 7 on another-machine"
    finally:
        holder.kill()
        holder.wait()


def test_asking_for_a_lock_of_our_own_does_not_lose_it(tmp_path: Path) -> None:
    """Closing any descriptor of the file would: the kernel's rule for this kind of lock."""
    path = tmp_path / ".lock"
    lock = Lock.take(path)
    assert lock is not None
    assert Lock.take(path) is None
    assert str(os.getpid()) in (holder_of(path) or "")
    script = "import sys, pathlib, egrc_mega.lock as lock; print(lock.holder_of(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-P", "-c", script, str(path)]
    assert f"process {os.getpid()} on" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lock.release()
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "None\n"


def test_an_earlier_run_needs_resume_or_fresh(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"--resume, or move it aside with --fresh"):
        check(tmp_path, resume=False)
    check(tmp_path, resume=True)


def test_moving_aside_keeps_every_earlier_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for content in "abc":
        run.mkdir()
        (run / "metrics.jsonl").write_text(content)
        move_aside(run)
    assert [(tmp_path / f"run.{i}" / "metrics.jsonl").read_text() for i in (1, 2, 3)] == ["a", "b", "c"]
    assert move_aside(run) is None


def test_the_environment_is_recorded(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path / "run", resume=False) as folder:
        folder.write_config({"run": {"seed": 3}})
    assert "seed: 3" in (tmp_path / "run" / "config.yaml").read_text()
    assert '"torch": "2.' in (tmp_path / "run" / "environment.json").read_text()


def test_where_values_come_from_is_recorded_and_goes_with_the_configuration_that_it_was_of(tmp_path: Path) -> None:
    origins = tmp_path / "run" / "config_origins.json"
    with RunFolder.claim(tmp_path / "run", resume=False) as folder:
        folder.write_config({"run": {"seed": 3}})
        folder.write_origins({"run.seed": "--set"})
        assert "--set" in origins.read_text()
        folder.write_config({"run": {"seed": 4}})
        assert not origins.exists()


def test_whoever_begins_is_not_stopped_by_what_was_asked_of_an_earlier_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / STOP).touch()
    # an attempt of a supervisor, which has begun before: it was asked of this run
    monkeypatch.setenv(SUPERVISED, "1")
    with RunFolder.claim(tmp_path, resume=False):
        assert (tmp_path / STOP).exists()
    monkeypatch.delenv(SUPERVISED)
    with RunFolder.claim(tmp_path, resume=False):
        assert not (tmp_path / STOP).exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.log", ".lock", "logs/server_0.log", ".report.html.tmp", "stop"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_that_is_a_link_out_of_the_folder_is_refused_and_what_it_leads_to_stays(
    tmp_path: Path, name: str, is_there: bool
) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    (run / "logs").mkdir(parents=True)
    for file in ("metrics.jsonl", "config.yaml"):
        (run / file).write_text('{"kind": "step", "step": 1}')
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    if is_there:
        precious.write_text("kept")
    for write in (
        lambda: RunFolder.claim(run, resume=is_there),
        lambda: stop(run),
        lambda: build_report(run),
        lambda: write_trace(run, None, None),
        lambda: feed("tensorboard", run, threading.Event()),
    ):
        with pytest.raises(RunError, match=rf"{name} is a link to {precious}, .*; remove the link"):
            write()
    assert [path.read_text() for path in tmp_path.glob("precious")] == ["kept"] * is_there


def test_links_that_stay_inside_or_lead_to_another_disk_or_a_device_are_no_obstacle(tmp_path: Path) -> None:
    run, disk = tmp_path / "run", tmp_path / "disk"
    for folder in (run / "trackers", disk):
        folder.mkdir(parents=True)
    (run / "trackers" / "1.log").touch()
    (run / "trackers" / "latest.log").symlink_to("1.log")
    (run / "trackers" / "wandb" / "logs").mkdir(parents=True)
    (run / "trackers" / "wandb" / "logs" / "core.log").symlink_to(disk / "core.log")
    (run / "checkpoints").symlink_to(disk)
    (run / "run.log").symlink_to("/dev/null")
    with RunFolder.claim(run, resume=False) as folder:
        assert folder.path == run and (run / "checkpoints").readlink() == disk


def test_a_lock_that_is_a_link_is_not_taken_and_what_it_leads_to_is_not_cut_short(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".lock").symlink_to("precious")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        Lock.take(tmp_path / ".lock")
    assert (tmp_path / "precious").read_text() == "kept"
