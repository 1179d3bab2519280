"""The report of a hang, of small processes that hang on purpose.

A whole run's is in tests/training/test_whole_run.py.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from egrc_mega.errors import HangError, RolloutError
from egrc_mega.lock import Holder
from egrc_mega.observe import hangs
from egrc_mega.observe.hangs import HangWatch, Stillness, look_at
from egrc_mega.observe.pulse import PULSE, Note, Pulse, read_page

RANK = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path
from egrc_mega.observe import hangs
from egrc_mega.observe.pulse import PULSE
folder, rank, size, how = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
(folder / f"{rank}.tmp").write_text(hangs.introduction())
(folder / f"{rank}.tmp").rename(folder / f"{rank}.here")
def others(name):
    while not all((folder / f"{r}.{name}").exists() for r in range(size) if r != rank):
        time.sleep(0.01)
others("here")
introductions = [(folder / f"{r}.here").read_text() for r in range(size)]
if how == "impatient":
    hangs.PATIENCE_S = 0.1
def a_further_step():
    with PULSE.phase("update, step 4"):
        (folder / f"{rank}.went").touch()
def lost_in_thought():
    (folder / f"{rank}.lost").touch()
    if how == "stopped":
        for _ in range(20):  # any of which might take a signal, and leave the main thread free to run on
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        os.kill(os.getpid(), signal.SIGSTOP)
        a_further_step()
    if how == "waking":
        while not PULSE.is_held():
            time.sleep(0.01)
        a_further_step()
    if how == "holding":
        ctypes.PyDLL(None).sleep(600)
    if how == "dead":
        os._exit(0)
    time.sleep(600)
with hangs.HangWatch(folder, rank, introductions, 600, "policy.distributed_timeout_s"), PULSE.phase("update, step 3"):
    if how in ("asking", "impatient"):
        others("lost")
        time.sleep(0.2)
        with PULSE.awaiting("rank 1's part", 0.2, "run.lead_timeout_s"):
            lost_in_thought()
    lost_in_thought()
"""
DEADLINE_S = 120


@dataclass(frozen=True)
class Hang:
    """What came of it."""

    codes: list[int | None]
    """Of those that end by themselves; None of the others."""
    said: list[str]
    folder: Path

    @property
    def code(self) -> int | None:
        """Of the one that asks."""
        return self.codes[0]

    @property
    def file(self) -> str:
        (found,) = (self.folder / "hangs").iterdir()
        return found.read_text()


def hang(folder: Path, *ranks: str) -> Hang:
    """Start the ranks and wait until the first, which asks, has ended, and who would go on."""
    command = [sys.executable, "-P", "-c", RANK, str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank), str(len(ranks)), how], stderr=subprocess.PIPE, text=True)
        for rank, how in enumerate(ranks)
    ]
    try:
        _, said = processes[0].communicate(timeout=DEADLINE_S)
        for process, how in zip(processes, ranks, strict=True):
            if how in ("stopped", "waking"):
                process.wait(DEADLINE_S)
        codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return Hang(codes, said.splitlines(), folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Hang:
    """The hang of four ranks: one that asks, one that answers, one that is stopped, one that is dead."""
    return hang(tmp_path_factory.mktemp("run"), "asking", "waking", "stopped", "dead")


def test_the_console_has_a_line_for_each_rank_with_its_phase_and_what_it_awaits(found: Hang) -> None:
    assert found.said[0].startswith("egrc: the run hangs: rank 0 has not moved for ")
    assert found.said[0].endswith(" s (run.lead_timeout_s = 0.2)")
    asking, sleeping, stopped, dead = found.said[1:5]
    assert asking.startswith("egrc: rank 0: update, step 3, for ") and "awaits rank 1's part" in asking
    assert sleeping.startswith("egrc: rank 1: update, step 3, for ") and "does not answer" not in sleeping
    assert stopped.startswith("egrc: rank 2: update, step 3, for ") and stopped.endswith("is stopped")
    assert "(lost_in_thought); does not answer: process" in stopped
    assert dead.startswith("egrc: rank 3: ") and dead.endswith(("is gone", "is zombie"))


def test_the_file_has_the_stacks_of_every_thread_of_every_rank_that_lives(found: Hang) -> None:
    parts = found.file.split("== ")[1:]
    assert [part[:6] for part in parts] == [f"rank {rank}" for rank in range(4)]
    for part in parts[:3]:
        assert "lost_in_thought" in part
        assert "hangs.py" in part  # the watch's own thread
    assert "line" not in parts[3].partition("\n")[2]


def test_the_run_ends_with_the_cause_as_its_last_line_and_a_code_of_its_own(found: Hang) -> None:
    assert found.code == HangError.exit_code
    last = found.said[-1]
    assert last.startswith("egrc: error: the run hangs: rank 0 has not moved for ")
    assert "rank 2: update, step 3" in last and "is stopped" in last
    assert "rank 1" not in last.partition("; ")[2]  # who answers is not at fault
    (file,) = (found.folder / "hangs").iterdir()
    assert last.endswith(f"all stacks: {file}")


def test_neither_who_answers_nor_who_is_run_on_for_its_stacks_takes_a_further_step(found: Hang) -> None:
    assert found.codes[1:3] == [HangError.exit_code] * 2
    assert list(found.folder.glob("*.went")) == []


def test_a_rank_that_holds_the_interpreter_is_seen_from_outside(tmp_path: Path) -> None:
    found = hang(tmp_path, "impatient", "holding")
    assert found.code == HangError.exit_code
    assert "lost_in_thought" in found.file.split("== ")[2]
    assert (
        found.said[2].startswith("egrc: rank 1: update, step 3, for ") and "does not answer: process" in found.said[2]
    )


def test_the_report_goes_to_the_console_where_no_file_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "hangs").touch()
    found = hang(tmp_path, "impatient", "sleeping")
    assert found.code == HangError.exit_code
    text = "\n".join(found.said)
    assert "looked at from outside" in text
    assert text.count("in lost_in_thought") == 2


@pytest.fixture
def watches(tmp_path: Path) -> Iterator[list[HangWatch]]:
    """Of two ranks that are one process."""
    both = [hangs.introduction()] * 2
    ranks = [HangWatch(tmp_path, rank, both, 600.0, "policy.distributed_timeout_s") for rank in range(2)]
    with ExitStack() as stack:
        for watch in ranks:
            watch.poll_s = 0.01
            stack.enter_context(watch)
        yield ranks


def wait_in_vain(cause: BaseException | None) -> None:
    with PULSE.phase("collect, step 4"), PULSE.awaiting("servers, graders or files", 86400.0, "run.lead_timeout_s"):
        raise RolloutError("no answer within 3 s\x1b[2J") from cause


def test_a_wait_beyond_its_limit_is_reported_with_the_stacks_of_all_ranks_and_the_error_goes_its_way(
    watches: list[HangWatch], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with PULSE.phase("collect, step 4"), PULSE.awaiting("servers", 86400.0, "run.lead_timeout_s"):
        with pytest.raises(RolloutError, match="no answer within 3 s"), watches[0].reporting_waits():
            wait_in_vain(RolloutError())
        assert not (tmp_path / "hangs").exists()  # no limit of time is behind that one
        lost = RolloutError("lost")
        lost.__cause__ = TimeoutError("\x1b[31m")
        with pytest.raises(RolloutError, match="no answer within 3 s"), watches[0].reporting_waits():
            wait_in_vain(lost)
    (file,) = (tmp_path / "hangs").iterdir()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "egrc: the run waits in vain: no answer within 3 s\\x1b[2J"
    for rank in (0, 1):
        assert (
            said[1 + rank].startswith(f"egrc: rank {rank}: collect, step 4, for ")
            and "awaits servers" in said[1 + rank]
        )
    assert "(wait_in_vain)" in said[1] and said[3] == f"egrc: all stacks: {file}"
    assert "\x1b" not in file.read_text()
    parts = file.read_text().split("== ")[1:]
    assert [part[:6] for part in parts] == ["rank 0", "rank 1"]
    assert "in wait_in_vain" in parts[0] and "thread hang watch" in parts[1]


def test_a_movement_begins_the_time_anew_and_the_time_of_an_own_stop_does_not_count() -> None:
    stillness = Stillness(poll_s=1.0)
    assert [stillness.look(count, now) for count, now in [(7, 0.0), (7, 1.0), (7, 2.0), (8, 3.0), (8, 4.0)]] == [
        *(0.0, 1.0, 2.0),
        *(0.0, 1.0),
    ]
    assert stillness.look(8, 4000.0) == 3.0


def test_a_rank_of_another_host_is_named_with_it() -> None:
    answer = look_at(1, 0.0, "elsewhere", 5)
    assert answer.line(4) == ("rank 4: does not answer; it is process 1 on elsewhere, which cannot be seen from here")


def test_a_process_that_is_not_the_known_one_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(hangs.os, "kill", lambda pid, number: sent.append(number))
    monkeypatch.setattr(hangs, "_signal_main_thread", lambda pid, number: sent.append(number))
    own = Holder.this_process()
    assert "does not answer" in look_at(own.pid, own.started, own.host, page=0).trouble
    assert "is gone" in look_at(own.pid, own.started - 100, own.host, page=0).trouble
    assert sent == []


def test_a_note_is_read_by_others_and_goes_back_to_what_it_was() -> None:
    pulse = Pulse()
    page, pid = pulse.publish(), Holder.this_process().pid

    def seen() -> tuple[str, str, float | None]:
        note, _stacks = read_page(pid, page) or (Note(), "")
        return note.phase, note.awaits, note.limit_s

    with pulse.phase("collect, step 1"):
        with pulse.awaiting("servers", 5.0, "run.lead_timeout_s"):
            assert seen() == ("collect, step 1", "servers", 5.0)
        assert seen() == ("collect, step 1", "", None)
    assert seen() == ("", "", None)
    assert pulse.count == 4


def test_a_note_that_is_too_long_for_its_page_is_none_and_not_an_error() -> None:
    pulse = Pulse()
    with pulse.phase("x" * 5000):
        assert read_page(Holder.this_process().pid, pulse.publish()) is None
