"""The supervisor with a stand-in for the run: a script that records steps and dies as it is told.

Whole runs under it are in tests/training/test_whole_run.py.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from egrc_mega.run_folder import STOP
from egrc_mega.soak.laws import require_no_process
from egrc_mega.testing.runs import events

SUPERVISE = """
import sys
from pathlib import Path
from egrc_mega.launch.supervisor import Supervisor
from egrc_mega.sections.supervisor import SupervisorSection
rules = SupervisorSection(backoff_s=float(sys.argv[2]), max_backoff_s=1000, max_restarts=3)
sys.exit(Supervisor(sys.argv[3:], Path(sys.argv[1]), rules).run())
"""
ATTEMPT = """
n=$(cat "$0.n" 2>/dev/null || echo 0); n=$((n + 1)); echo $n > "$0.n"
echo "$TMPDIR" >> "$0.scratch"
step() { echo "{\\"kind\\":\\"step\\",\\"step\\":$1}" >> "$(dirname "$0")/metrics.jsonl"; }
"""
DEADLINE_S = 60


class Supervised:
    """A supervisor in a process of its own, over a shell script in the folder of a run."""

    def __init__(self, folder: Path, body: str, backoff_s: float = 0.01) -> None:
        self.folder, self.script = folder, folder / "attempt.sh"
        self.script.write_text(ATTEMPT + body)
        command = [sys.executable, "-P", "-c", SUPERVISE, str(folder), str(backoff_s), "bash", str(self.script)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it has said."""
        output, _ = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, output

    def wait_for(self, name: str) -> str:
        """What stands in a file of the folder, once it is there."""
        file, deadline = self.folder / name, time.monotonic() + DEADLINE_S
        while not (file.exists() and file.read_text().endswith("\n")):
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.01)
        return file.read_text().strip()

    @property
    def num_attempts(self) -> int:
        return int((self.folder / "attempt.sh.n").read_text())

    def events(self, kind: str) -> list[dict]:
        return events(self.folder, kind)


def assert_gone(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        require_no_process([psutil.Process(pid)], DEADLINE_S)


def test_a_run_that_dies_is_started_again_until_it_ends(tmp_path: Path) -> None:
    run = Supervised(tmp_path, "step $n; if [ $n -lt 3 ]; then kill -9 $$; fi")
    code, output = run.end()
    assert (code, run.num_attempts) == (0, 3)
    assert output.splitlines() == [
        "egrc: the run has died (signal 9 in step 2); restart 1 in 0.01 s",
        "egrc: the run has died (signal 9 in step 3); restart 2 in 0.01 s",
    ]
    assert [(event["attempt"], event["reason"]) for event in run.events("restart")] == [
        (1, "signal 9 in step 2"),
        (2, "signal 9 in step 3"),
    ]


def test_the_last_recorded_step_counts_and_not_the_highest(tmp_path: Path) -> None:
    run = Supervised(tmp_path, "step 7; step $((8 - n)); if [ $n -lt 4 ]; then exit 1; fi")
    assert run.end()[0] == 0
    assert [event["reason"] for event in run.events("restart")] == [f"exit code 1 in step {k}" for k in (8, 7, 6)]


def test_a_crash_that_repeats_in_one_step_ends_with_its_code_and_says_so(tmp_path: Path) -> None:
    run = Supervised(tmp_path, "step 4; exit 9")
    code, output = run.end()
    assert (code, run.num_attempts) == (9, 3)
    assert "egrc: the run is left as it is: it has died 3 times in step 5" in output
    assert len(run.events("left")) == 1


@pytest.mark.parametrize(("body", "code"), [("exit 2", 2), ("exit 7", 7)])
def test_what_a_restart_cannot_mend_is_tried_once(tmp_path: Path, body: str, code: int) -> None:
    run = Supervised(tmp_path, body)
    assert (run.end()[0], run.num_attempts) == (code, 1)
    assert not (tmp_path / "metrics.jsonl").exists()  # where no run has begun none is made up


def test_a_signals_number_is_in_the_exit_code(tmp_path: Path) -> None:
    assert Supervised(tmp_path, "kill -6 $$").end()[0] == 128 + signal.SIGABRT


def test_every_attempt_has_a_scratch_folder_that_goes_with_it(tmp_path: Path) -> None:
    run = Supervised(tmp_path, 'touch "$TMPDIR/left"; step $n; if [ $n -lt 2 ]; then kill -9 $$; fi')
    assert run.end()[0] == 0
    first, second = (tmp_path / "attempt.sh.scratch").read_text().split()
    assert first != second and not Path(first).exists() and not Path(second).exists()


def test_orphans_of_an_attempt_are_gone_before_the_next_begins(tmp_path: Path) -> None:
    body = """
step $n
if [ $n = 2 ]; then kill -0 $(cat "$0.orphan") 2>/dev/null && touch "$0.alive"; exit 0; fi
setsid sleep 1000 & echo $! > "$0.orphan"; kill -9 $$
"""
    run = Supervised(tmp_path, body)
    assert run.end()[0] == 0
    assert not (tmp_path / "attempt.sh.alive").exists()
    assert_gone(int((tmp_path / "attempt.sh.orphan").read_text()))


@pytest.mark.parametrize(("answer", "code"), [(75, 75), (0, 0), (3, 75)])
def test_a_stop_is_passed_on_and_nothing_is_started_again(tmp_path: Path, answer: int, code: int) -> None:
    run = Supervised(tmp_path, f'trap "exit {answer}" TERM; echo > "$0.ready"; while :; do sleep 0.01; done')
    run.wait_for("attempt.sh.ready")
    run.process.terminate()
    assert (run.end()[0], run.num_attempts) == (code, 1)


def test_a_run_that_was_asked_to_stop_by_somebody_else_is_left(tmp_path: Path) -> None:
    run = Supervised(tmp_path, "exit 75")
    assert (run.end()[0], run.num_attempts) == (75, 1)


def test_a_second_signal_is_passed_on_too(tmp_path: Path) -> None:
    body = 'trap "trap \\"exit 3\\" TERM; echo > $0.once" TERM; echo > "$0.ready"; while :; do sleep 0.01; done'
    run = Supervised(tmp_path, body)
    for name in ("attempt.sh.ready", "attempt.sh.once"):
        run.wait_for(name)
        run.process.terminate()
    assert run.end()[0] == 75


def test_a_stop_ends_the_wait_for_the_next_attempt(tmp_path: Path) -> None:
    run = Supervised(tmp_path, 'echo > "$0.ready"; step 1; exit 1', backoff_s=900)
    assert run.process.stdout is not None
    assert "restart 1 in 900 s" in run.process.stdout.readline()
    run.process.terminate()
    assert (run.end()[0], run.num_attempts) == (75, 1)


def test_a_killed_supervisor_takes_its_run_with_it(tmp_path: Path) -> None:
    run = Supervised(tmp_path, 'echo $$ > "$0.ready"; while :; do sleep 0.01; done')
    pid = int(run.wait_for("attempt.sh.ready"))
    os.kill(run.process.pid, signal.SIGKILL)
    run.end()
    assert_gone(pid)


def test_a_run_that_is_asked_to_stop_between_two_attempts_is_not_started_again(tmp_path: Path) -> None:
    run = Supervised(tmp_path, f'echo "$EGRC_SUPERVISED" > "$0.ready"; touch "$(dirname "$0")/{STOP}"; exit 1')
    assert (run.end()[0], run.num_attempts) == (75, 1)
    assert run.wait_for("attempt.sh.ready") == "1"


def test_what_was_asked_before_a_supervisor_began_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / STOP).touch()
    run = Supervised(tmp_path, "step $n; if [ $n -lt 2 ]; then exit 1; fi")
    assert (run.end()[0], run.num_attempts) == (0, 2)
