"""A run folder belongs to one living process; nothing in it is lost."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from egrc_mega.errors import RunError
from egrc_mega.run_folder import RunFolder, check, is_held, move_aside

HOLDER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from egrc_mega.run_folder import RunFolder\n"
    "with RunFolder.claim(Path(sys.argv[1]), resume=False):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


def hold(path: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-P", "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_that_another_run_holds_is_refused_with_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    holder = hold(run)
    try:
        for refused in (lambda: RunFolder.claim(run, resume=False), lambda: move_aside(run)):
            with pytest.raises(RunError, match=rf"run\.dir: .* is held by another run \(process {holder.pid}\)"):
                refused()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert not is_held(run)
    with RunFolder.claim(run, resume=False):
        assert is_held(run)
    assert not is_held(run)


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
