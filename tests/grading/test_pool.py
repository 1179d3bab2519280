"""The pool under answers that hang, children that die, threads, and callers of every kind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

import psutil
import pytest

from egrc_mega.errors import GradingError
from egrc_mega.grading import pool as pool_module
from egrc_mega.grading import worker as worker_module
from egrc_mega.grading.grader import GRADERS
from egrc_mega.grading.pool import GraderPool
from egrc_mega.grading.worker import Worker, start_worker
from egrc_mega.plugins import load_plugins
from egrc_mega.types import Grade

TOWER = ("9^{9^{9^9}}", "4")
HALF = ("\\frac{2}{4}", "\\frac12")
THIRD = ("\\frac{1}{3}", "\\frac12")
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    # a comparison takes 20 ms of an idle machine: the deadline leaves a busy one 150 times that
    with GraderPool(num_workers=2, timeout_s=3.0) as shared:
        yield shared


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = start_worker(timeout_s=DEADLINE_S)
    yield started
    started.kill()


def _pids(pool: GraderPool) -> set[int]:
    return {worker.process.pid for worker in pool._workers}


def test_verdicts_come_in_the_order_of_the_answers(pool: GraderPool) -> None:
    pairs = [HALF, THIRD, ("5", "5"), (None, "5"), ("5", "6"), THIRD, HALF]
    expected = [Grade.RIGHT, Grade.WRONG, Grade.RIGHT, Grade.WRONG, Grade.WRONG, Grade.WRONG, Grade.RIGHT]
    assert pool.grade(pairs) == expected
    assert pool.grade([]) == []


def test_no_answer_is_wrong_without_asking_a_child(pool: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "give", lambda *_: pytest.fail("a child was asked"))
    assert pool.grade([(None, "3"), ("3", "3"), ("3", "4")]) == [Grade.WRONG, Grade.RIGHT, Grade.WRONG]


def test_an_answer_that_hangs_costs_one_child_and_only_itself(pool: GraderPool) -> None:
    before = _pids(pool)
    grades = pool.grade([HALF, TOWER, *[HALF] * 20, THIRD])
    assert grades == [Grade.RIGHT, Grade.UNGRADED, *[Grade.RIGHT] * 20, Grade.WRONG]
    assert len(_pids(pool)) == 2 and len(_pids(pool) & before) == 1, "the hanging child is replaced, the other stays"


def test_the_pool_keeps_its_size_when_every_answer_hangs(pool: GraderPool) -> None:
    assert pool.grade([TOWER] * 3) == [Grade.UNGRADED] * 3
    assert len(_pids(pool)) == 2
    assert all(psutil.pid_exists(pid) for pid in _pids(pool))
    assert pool.grade([HALF, THIRD]) == [Grade.RIGHT, Grade.WRONG]


def test_a_thousand_answers_are_graded_from_a_thread(pool: GraderPool) -> None:
    grades: list[Grade] = []
    pairs = [(f"{i}.0", str(i + i % 2)) for i in range(1000)]
    thread = threading.Thread(target=lambda: grades.extend(pool.grade(pairs)))
    thread.start()
    thread.join(DEADLINE_S)
    assert grades == [Grade.WRONG if i % 2 else Grade.RIGHT for i in range(1000)]


def test_two_threads_get_their_own_verdicts(pool: GraderPool) -> None:
    grades: dict[str, list[Grade]] = {}
    threads = [
        threading.Thread(target=lambda: grades.update(half=pool.grade([HALF] * 40))),
        threading.Thread(target=lambda: grades.update(third=pool.grade([THIRD] * 40))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert grades == {"half": [Grade.RIGHT] * 40, "third": [Grade.WRONG] * 40}


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_child_that_dies_at_work_gives_no_verdict(worker: Worker, fatal: signal.Signals) -> None:
    worker.give(0, *TOWER)
    os.kill(worker.process.pid, fatal)
    assert wait([worker.connection], timeout=DEADLINE_S), "the death was not noticed"
    assert worker.take_verdict() is Grade.UNGRADED
    assert worker.is_killed


def test_a_child_that_died_idle_is_replaced_and_costs_nothing(pool: GraderPool) -> None:
    pool.grade([])
    victim = pool._workers[0]
    os.kill(victim.process.pid, signal.SIGKILL)
    assert wait([victim.connection], timeout=DEADLINE_S), "the death was not noticed"
    assert pool.grade([HALF] * 4) == [Grade.RIGHT] * 4
    assert len(_pids(pool)) == 2 and victim.process.pid not in _pids(pool)


def test_a_verdict_that_is_there_counts_although_its_deadline_has_passed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.give(0, *HALF)
    assert wait([worker.connection], timeout=DEADLINE_S)
    monkeypatch.setattr(worker, "_deadline", time.monotonic() - 1)
    assert worker.take_verdict() is Grade.RIGHT
    assert not worker.is_killed


def test_an_interrupted_call_leaves_no_verdict_to_the_next_one(
    pool: GraderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pool_module, "wait", lambda *_args, **_options: (_ for _ in ()).throw(KeyboardInterrupt))
        pool.grade([HALF, HALF])
    assert pool.grade([THIRD, THIRD]) == [Grade.WRONG, Grade.WRONG]


def test_a_child_that_does_not_start_three_times_in_a_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = Worker.__init__

    def count(self: Worker, timeout_s: float, recipe: str) -> None:
        started.append(1)
        start(self, timeout_s, recipe)

    monkeypatch.setattr(Worker, "__init__", count)
    monkeypatch.setattr(worker_module, "serve", os._exit)
    with pytest.raises(GradingError, match=r"did not start, 3 times in a row.*lower grading\.num_workers"):
        GraderPool(num_workers=1, timeout_s=1.0)
    assert len(started) == 3


def test_a_closed_pool_refuses_and_its_children_are_gone() -> None:
    with GraderPool(num_workers=2, timeout_s=1.0) as pool:
        children = [psutil.Process(pid) for pid in _pids(pool)]
    gone, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert len(gone) == 2 and not alive
    with pytest.raises(GradingError, match="closed"):
        pool.grade([HALF])
    pool.close()


UNGUARDED = """
    # no __name__ guard on purpose: a child that imported this file would start a pool of its own
    import sys
    from egrc_mega.grading.pool import GraderPool
    assert __name__ == "__main__", f"imported by a child as {__name__}"
    with GraderPool(2, 5.0) as pool:
        print(*pool.grade([("\\\\frac{2}{4}", "\\\\frac12"), ("0.5", "\\\\frac13")]))
    assert "sympy" not in sys.modules, "the parent needs no mathematics"
    assert __spec__ is None or __spec__.name == "unguarded"
    assert "__file__" in globals()
"""


@pytest.mark.parametrize("how", ["script", "module", "standard input"])
def test_the_callers_main_module_is_not_imported_by_the_children(tmp_path: Path, how: str) -> None:
    (tmp_path / "unguarded.py").write_text(textwrap.dedent(UNGUARDED))
    arguments = {"script": ["unguarded.py"], "module": ["-m", "unguarded"], "standard input": ["-"]}[how]
    source = textwrap.dedent(UNGUARDED).replace('assert "__file__" in globals()', "") if how == "standard input" else ""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, input=source, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "right wrong\n", "")


ORPHANS = """
    import sys
    from egrc_mega.grading.worker import start_worker
    idle, busy = start_worker(0.1), start_worker(0.1)
    busy.give(0, "9^{9^{9^9}}", "4")
    print(idle.process.pid, busy.process.pid, flush=True)
    sys.stdin.read()
"""


def test_children_end_when_their_parent_is_killed_idle_or_at_work() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ORPHANS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.kill()
    gone, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert len(gone) == 2 and not alive


def test_a_child_has_a_memory_limit_and_no_core_file(worker: Worker) -> None:
    child = psutil.Process(worker.process.pid)
    assert child.rlimit(psutil.RLIMIT_AS)[0] == worker_module.MEMORY_LIMIT_BYTES
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)


PLUGIN = """
from typing import Literal

from egrc_mega.grading.grader import Grader, GraderSection
from egrc_mega.plugins import load_plugins
from egrc_mega.types import Grade


class LengthSection(GraderSection):
    grader: Literal["length"] = "length"
    limit: int = 3


class Length(Grader):
    Config = LengthSection

    def extract(self, text):
        return text

    def judge(self, answer, gold):
        return Grade.RIGHT if len(answer) <= self.section.limit else Grade.WRONG
"""


def test_a_grader_from_a_plugin_judges_in_the_children_with_its_own_section(tmp_path: Path) -> None:
    plugin = tmp_path / "length.py"
    plugin.write_text(PLUGIN)
    modules = load_plugins([str(plugin)])
    GRADERS.use_plugins(modules)
    try:
        chosen = GRADERS["length"]
        section = chosen.Config.model_validate({"grader": "length", "limit": 5})
        with GraderPool(1, 30.0, chosen(section), [str(plugin)]) as own:
            assert own.grade([("12345", "9"), ("123456", "9"), (None, "9")]) == [Grade.RIGHT, Grade.WRONG, Grade.WRONG]
            assert own.grader.extract("no box at all") == "no box at all"
    finally:
        GRADERS.use_plugins(())
