"""A forked process is one like any other: arguments, variables, streams, exit codes, signals, parents."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from egrc_mega.parent import die_with_parent
from egrc_mega.soak.processes import working_in
from egrc_mega.testing import forked

EGRC = (sys.executable, "-P", "-m", "egrc_mega.cli.main")
PATIENCE_S = 60


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def server(base_model: Path, folder: Path, *flags: str, **options: object) -> "subprocess.Popen[str]":
    """An embedded server that has written its port."""
    folder.mkdir()
    command = [sys.executable, "-P", "-m", "egrc_mega.embedded", "--model-path", str(base_model)]
    command += [*flags, "--port-file", str(folder / "port")]
    process = forked.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    assert eventually((folder / "port").exists)
    return process


def test_a_forked_command_says_and_returns_what_a_true_one_does(tmp_path: Path) -> None:
    for arguments in (["--version"], ["train", "-c", "nowhere.yaml"], ["rollouts", "."]):
        fork = forked.run([*EGRC, *arguments], cwd=tmp_path)
        with forked.true_processes():
            true = forked.run([*EGRC, *arguments], cwd=tmp_path)
        assert (fork.returncode, fork.stdout, fork.stderr) == (true.returncode, true.stdout, true.stderr)
    assert true.returncode != 0 and true.stderr.startswith("egrc: error: ")


def test_the_graders_of_a_forked_process_are_forked_too_judge_and_end(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(r'{"gold": "2\\sqrt{2}", "said": "\\boxed{\\sqrt{8}}"}' + "\n")
    own = ["grade", "rows.jsonl", "--gold-key", "gold", "--response-key", "said", "--out", "out.jsonl"]
    fork = forked.run([*EGRC, *own], cwd=tmp_path)
    assert fork.returncode == 0 and fork.stdout.startswith("1 responses: 1 right"), fork.stderr
    assert eventually(lambda: working_in(tmp_path) == [])


def test_only_what_is_imported_already_is_forked() -> None:
    assert type(forked.popen([sys.executable, "-c", ""])) is subprocess.Popen
    with forked.true_processes():
        assert type(forked.popen([*EGRC, "--version"], stdout=subprocess.DEVNULL)) is subprocess.Popen
    fork = forked.popen([*EGRC, "--version"], stdout=subprocess.PIPE)
    assert fork.communicate(timeout=PATIENCE_S) == (b"egrc_mega 0.1.0\n", None)
    assert type(fork) is forked.ForkedPopen


@pytest.mark.parametrize("columns", [50, 90])
def test_a_forked_process_has_the_variables_that_it_is_given(columns: int) -> None:
    fork = forked.popen([*EGRC, "--help"], env={"COLUMNS": str(columns)}, stdout=subprocess.PIPE, text=True)
    output, _ = fork.communicate(timeout=PATIENCE_S)
    assert max(map(len, output.splitlines())) == columns


def test_a_forked_process_ends_by_a_signal_or_with_its_standard_input(base_model: Path, tmp_path: Path) -> None:
    ends = {-signal.SIGKILL: lambda process: process.kill(), 0: lambda process: process.stdin.close()}
    for code, end in ends.items():
        process = server(base_model, tmp_path / str(code), "--exit-with-stdin")
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        end(process)
        assert process.wait(PATIENCE_S) == code
        assert not psutil.pid_exists(process.pid)


def test_what_asks_to_die_with_its_parent_does_and_nothing_else(base_model: Path, tmp_path: Path) -> None:
    child = server(base_model, tmp_path / "child", preexec_fn=partial(die_with_parent, os.getpid()))
    free = server(base_model, tmp_path / "free")
    for process in (child, free):
        keeper = psutil.Process(process.pid).parent()
        assert keeper is not None
        keeper.kill()
        assert eventually(lambda keeper=keeper: not keeper.is_running())
    assert eventually(lambda: not psutil.pid_exists(child.pid))
    assert psutil.pid_exists(free.pid)
    os.kill(free.pid, signal.SIGKILL)
