"""The pool under answers that hang, children that die, threads, and callers of every kind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil
import pytest

from egrc_mega.errors import GradingError
from egrc_mega.grading import pool as pool_module
from egrc_mega.grading import worker as worker_module
from egrc_mega.grading.grader import GRADERS, Grader
from egrc_mega.grading.pool import GraderPool
from egrc_mega.grading.verdicts import Reason
from egrc_mega.grading.worker import Budget, Loss, Worker, recipe_of, start_worker
from egrc_mega.plugins import load_plugins
from egrc_mega.testing.runs import variables_of
from egrc_mega.types import NO_HINTS, Grade, Verdict

DEADLINE_S = 300.0
BUDGET = Budget(cpu_s=0.2, timeout_s=DEADLINE_S)
ROOT, OTHER_ROOT = (
    ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}", NO_HINTS),
    ("\\sqrt{3}", "\\frac{\\sqrt{2}}{2}", NO_HINTS),
)
HANG, DIE, DIE_ONCE, SLEEP, EAT = ((word, "gold", NO_HINTS) for word in ("hang", "die", "die once", "sleep", "eat"))
PLAIN = ("4", "4", NO_HINTS)

TROUBLE = """
import os, signal, time
from pathlib import Path
from typing import Literal

from egrc_mega.grading.grader import Grader, GraderSection
from egrc_mega.types import Grade, Verdict

MARK = Path(__file__).with_suffix(".mark")


class TroubleSection(GraderSection):
    grader: Literal["trouble"] = "trouble"
    \"\"\"Which grader.\"\"\"


class Trouble(Grader):
    Config = TroubleSection

    def judge(self, answer, gold, hints):
        if answer == "hang":
            while True:
                pass
        if answer == "die" or (answer == "die once" and not MARK.exists()):
            MARK.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if answer == "variable":
            return Verdict(grade=Grade.RIGHT if os.environ.get(gold) == "c0ffee" else Grade.WRONG, reason="trouble")
        if answer == "sleep":
            time.sleep(600)
        if answer == "eat":
            return bytearray(2**40)
        if answer == "raise":
            raise KeyError(answer)
        return Verdict(grade=Grade.RIGHT if answer == gold else Grade.WRONG, reason="trouble")
"""


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Grader, list[str]]]:
    """A grader that does what its answers say."""
    plugin = tmp_path_factory.mktemp("plugins") / "trouble.py"
    plugin.write_text(TROUBLE)
    GRADERS.use_plugins(load_plugins([str(plugin)]))
    chosen = GRADERS["trouble"]
    yield chosen(chosen.Config()), [str(plugin)]
    GRADERS.use_plugins(())


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(2, Budget(cpu_s=20.0, timeout_s=600.0)) as shared:
        yield shared


@pytest.fixture(scope="module")
def troubled(trouble: tuple[Grader, list[str]]) -> Iterator[GraderPool]:
    grader, plugins = trouble
    with GraderPool(2, BUDGET, grader, plugins) as shared:
        yield shared


@pytest.fixture
def worker(trouble: tuple[Grader, list[str]]) -> Iterator[Worker]:
    started = start_worker(Budget(cpu_s=600.0, timeout_s=600.0), recipe_of(*trouble))
    yield started
    started.kill()


def grades(verdicts: list[Verdict]) -> list[Grade]:
    return [verdict.grade for verdict in verdicts]


def _pids(pool: GraderPool) -> set[int]:
    return {worker.process.pid for worker in pool._workers}


def test_verdicts_come_in_the_order_of_the_answers(pool: GraderPool) -> None:
    pairs = [ROOT, OTHER_ROOT, PLAIN, (None, "5", NO_HINTS), ("5", "6", NO_HINTS), OTHER_ROOT, ROOT]
    right, wrong = Grade.RIGHT, Grade.WRONG
    assert grades(pool.grade(pairs)) == [right, wrong, right, wrong, wrong, wrong, right]
    assert pool.grade([]) == []


def test_every_verdict_has_its_reason(pool: GraderPool) -> None:
    pairs = [ROOT, PLAIN, (None, "5", NO_HINTS), ("5", "6", NO_HINTS), ("9^{9^{9^9}}", "7", NO_HINTS)]
    reasons = [Reason.SAMPLED, Reason.EQUAL_TEXT, Reason.NO_BOX, Reason.NUMERAL, Reason.TOO_BIG]
    assert [verdict.reason for verdict in pool.grade(pairs)] == reasons


def test_what_is_plain_at_sight_asks_no_child(pool: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "give", lambda *_: pytest.fail("a child was asked"))
    pairs = [(None, "3", NO_HINTS), ("3", "3", NO_HINTS), ("3", "4", NO_HINTS), ("\\frac{2}{4}", "0.5", NO_HINTS)]
    assert grades(pool.grade(pairs)) == [Grade.WRONG, Grade.RIGHT, Grade.WRONG, Grade.RIGHT]


def test_an_answer_that_spends_its_cpu_time_is_wrong_and_costs_one_child(troubled: GraderPool) -> None:
    troubled.grade([PLAIN])
    before = _pids(troubled)
    verdicts = troubled.grade([PLAIN, HANG, *[PLAIN] * 20])
    assert verdicts[1] == Verdict(grade=Grade.WRONG, reason=Reason.TOO_SLOW)
    assert grades(verdicts[:1] + verdicts[2:]) == [Grade.RIGHT] * 21
    troubled.grade([])
    assert len(_pids(troubled)) == 2 and len(_pids(troubled) & before) == 1, "the other child stays"


def test_the_pool_keeps_its_size_when_every_answer_hangs(troubled: GraderPool) -> None:
    assert grades(troubled.grade([HANG] * 3)) == [Grade.WRONG] * 3
    assert grades(troubled.grade([PLAIN, ("1", "2", NO_HINTS)])) == [Grade.RIGHT, Grade.WRONG]
    assert len(_pids(troubled)) == 2


def test_an_answer_that_kills_two_children_is_wrong(troubled: GraderPool) -> None:
    assert troubled.grade([DIE]) == [Verdict(grade=Grade.WRONG, reason=Reason.DIED)]


def test_an_answer_whose_child_died_once_is_judged_by_another(troubled: GraderPool) -> None:
    wrong = troubled.grade([DIE_ONCE, PLAIN])
    assert wrong == [Verdict(grade=g, reason="trouble") for g in (Grade.WRONG, Grade.RIGHT)]


def test_an_answer_that_wants_more_memory_than_there_is_is_wrong(troubled: GraderPool) -> None:
    assert troubled.grade([EAT]) == [Verdict(grade=Grade.WRONG, reason=Reason.TOO_BIG)]


def test_an_answer_that_makes_the_grader_fail_is_wrong(troubled: GraderPool) -> None:
    assert troubled.grade([("raise", "4", NO_HINTS)]) == [Verdict(grade=Grade.WRONG, reason=Reason.DIED)]


def test_only_an_answer_that_twice_gets_no_cpu_time_is_ungraded(trouble: tuple[Grader, list[str]]) -> None:
    grader, plugins = trouble
    with GraderPool(1, Budget(cpu_s=60.0, timeout_s=0.2), grader, plugins) as starved:
        assert starved.grade([SLEEP]) == [Verdict(grade=Grade.UNGRADED, reason=Reason.NO_TIME)]


def test_a_thousand_answers_are_graded_from_a_thread(pool: GraderPool) -> None:
    found: list[Verdict] = []
    pairs = [(f"\\sqrt{{{i * i}}}", f"{i + i % 2}\\pi/\\pi", NO_HINTS) for i in range(1000)]
    thread = threading.Thread(target=lambda: found.extend(pool.grade(pairs)))
    thread.start()
    thread.join(DEADLINE_S)
    assert grades(found) == [Grade.WRONG if i % 2 else Grade.RIGHT for i in range(1000)]


def test_two_threads_get_their_own_verdicts(pool: GraderPool) -> None:
    found: dict[str, list[Verdict]] = {}
    threads = [
        threading.Thread(target=lambda: found.update(right=pool.grade([ROOT] * 40))),
        threading.Thread(target=lambda: found.update(wrong=pool.grade([OTHER_ROOT] * 40))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert grades(found["right"]) == [Grade.RIGHT] * 40
    assert grades(found["wrong"]) == [Grade.WRONG] * 40


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_child_that_dies_at_work_is_a_loss(worker: Worker, fatal: signal.Signals) -> None:
    worker.give(0, HANG)
    os.kill(worker.process.pid, fatal)
    assert wait([worker.connection], timeout=DEADLINE_S), "the death was not noticed"
    assert worker.take_verdict() is Loss.DIED
    assert worker.is_killed


def test_a_child_that_died_idle_is_replaced_and_costs_nothing(pool: GraderPool) -> None:
    pool.grade([])
    victim = pool._workers[0]
    os.kill(victim.process.pid, signal.SIGKILL)
    assert wait([victim.connection], timeout=DEADLINE_S), "the death was not noticed"
    assert grades(pool.grade([ROOT] * 4)) == [Grade.RIGHT] * 4
    assert len(_pids(pool)) == 2 and victim.process.pid not in _pids(pool)


def test_a_verdict_that_is_there_counts_although_its_deadline_has_passed(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.give(0, PLAIN)
    assert wait([worker.connection], timeout=DEADLINE_S)
    monkeypatch.setattr(worker, "_deadline", time.monotonic() - 1)
    assert worker.take_verdict() == Verdict(grade=Grade.RIGHT, reason="trouble")
    assert not worker.is_killed


def test_an_interrupted_call_leaves_no_verdict_to_the_next_one(
    pool: GraderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pool_module, "wait", lambda *_args, **_options: (_ for _ in ()).throw(KeyboardInterrupt))
        pool.grade([ROOT, ROOT])
    assert grades(pool.grade([OTHER_ROOT, OTHER_ROOT])) == [Grade.WRONG, Grade.WRONG]


def test_a_child_that_does_not_start_three_times_in_a_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = Worker.__init__

    def count(self: Worker, budget: Budget, recipe: str) -> None:
        started.append(1)
        start(self, budget, recipe)

    monkeypatch.setattr(Worker, "__init__", count)
    monkeypatch.setattr(worker_module, "serve", os._exit)
    with pytest.raises(GradingError, match=r"did not start, 3 times in a row.*lower grading\.num_workers"):
        GraderPool(1, BUDGET)
    assert len(started) == 3


def test_a_closed_pool_refuses_and_its_children_are_gone() -> None:
    with GraderPool(2, BUDGET) as pool:
        children = [psutil.Process(pid) for pid in _pids(pool)]
    gone, alive = psutil.wait_procs(children, timeout=DEADLINE_S)
    assert len(gone) == 2 and not alive
    with pytest.raises(GradingError, match="closed"):
        pool.grade([ROOT])
    pool.close()


@pytest.fixture
def own_fork_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """That of this process may have been started by another test, for processes that are no graders."""
    own = forkserver.ForkServer()
    monkeypatch.setattr(forkserver, "_forkserver", own)
    for name in ("connect_to_new_process", "ensure_running", "set_forkserver_preload"):
        monkeypatch.setattr(forkserver, name, getattr(own, name))
    yield own
    own._stop()  # type: ignore[attr-defined]


def test_children_have_no_secret_variable_but_those_of_plugins_have(own_fork_server: Any, troubled: GraderPool) -> None:
    assert os.environ["EGRC_TESTS_TOKEN"] == "c0ffee"
    with GraderPool(1, Budget(20.0, 600.0)) as pool:
        for number in (own_fork_server._forkserver_pid, *_pids(pool)):
            variables = variables_of(number)
            assert "c0ffee" not in variables.values() and variables["PATH"] == os.environ["PATH"]
        assert json.loads(pool._recipe)["variables"] == {}
    asked = troubled.grade([("variable", "EGRC_TESTS_TOKEN", NO_HINTS)])
    assert grades(asked) == [Grade.RIGHT]


UNGUARDED = """
    # no __name__ guard on purpose: a child that imported this file would start a pool of its own
    import sys
    from egrc_mega.grading.pool import GraderPool
    assert __name__ == "__main__", f"imported by a child as {__name__}"
    from egrc_mega.grading.worker import Budget
    from egrc_mega.types import NO_HINTS
    with GraderPool(2, Budget(20.0, 600.0)) as pool:
        pairs = [("\\\\sqrt{8}", "2\\\\sqrt{2}", NO_HINTS), ("\\\\sqrt{7}", "2\\\\sqrt{2}", NO_HINTS)]
        print(*(verdict.grade for verdict in pool.grade(pairs)))
    assert not {"sympy", "mpmath"} & set(sys.modules), "the parent needs no mathematics"
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
    from egrc_mega.grading.grader import GRADERS
    from egrc_mega.grading.worker import Budget, recipe_of, start_worker
    from egrc_mega.plugins import load_plugins
    from egrc_mega.types import NO_HINTS
    plugins = [sys.argv[1]]
    GRADERS.use_plugins(load_plugins(plugins))
    chosen = GRADERS["trouble"]
    recipe = recipe_of(chosen(chosen.Config()), plugins)
    idle, busy = start_worker(Budget(0.1, 600.0), recipe), start_worker(Budget(0.1, 600.0), recipe)
    busy.give(0, ("hang", "4", NO_HINTS))
    print(idle.process.pid, busy.process.pid, flush=True)
    sys.stdin.read()
"""


def test_children_end_when_their_parent_is_killed_idle_or_at_work(trouble: tuple[Grader, list[str]]) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ORPHANS), trouble[1][0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
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
from egrc_mega.types import Grade, Verdict


class LengthSection(GraderSection):
    grader: Literal["length"] = "length"
    \"\"\"Which grader.\"\"\"
    limit: int = 3
    \"\"\"Of the length.\"\"\"


class Length(Grader):
    Config = LengthSection

    def extract(self, text, prompt_thinks):
        return text

    def judge(self, answer, gold, hints):
        is_short = len(answer) <= self.section.limit
        return Verdict(grade=Grade.RIGHT if is_short else Grade.WRONG, reason="length")
"""


def test_a_grader_from_a_plugin_judges_in_the_children_with_its_own_section(tmp_path: Path) -> None:
    plugin = tmp_path / "length.py"
    plugin.write_text(PLUGIN)
    modules = load_plugins([str(plugin)])
    GRADERS.use_plugins(modules)
    try:
        chosen = GRADERS["length"]
        section = chosen.Config.model_validate({"grader": "length", "limit": 5})
        with GraderPool(1, Budget(20.0, 600.0), chosen(section), [str(plugin)]) as own:
            pairs = [("12345", "9", NO_HINTS), ("123456", "9", NO_HINTS), (None, "9", NO_HINTS)]
            assert grades(own.grade(pairs)) == [Grade.RIGHT, Grade.WRONG, Grade.WRONG]
            assert own.grader.extract("no box at all", True) == "no box at all"
    finally:
        GRADERS.use_plugins(())


def test_a_fork_server_that_is_stopped_is_replaced_and_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    end = worker_module._end_fork_server

    def end_once() -> None:
        ended.set()
        monkeypatch.setattr(worker_module, "FORK_TIMEOUT_S", 600.0)  # a new one has as long as it takes
        end()

    with GraderPool(1, BUDGET) as pool:
        stopped = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        os.kill(stopped, signal.SIGSTOP)
        monkeypatch.setattr(worker_module, "KILL_TIMEOUT_S", 0.1)  # the end of the child is told by nobody
        monkeypatch.setattr(worker_module, "FORK_TIMEOUT_S", 0.1)
        monkeypatch.setattr(worker_module, "_end_fork_server", end_once)
        (child,) = pool._workers
        with monkeypatch.context() as patch:
            patch.setattr(worker_module, "_end_fork_server", lambda: None)
            child.kill()
        assert child.process.exitcode is None
        assert grades(pool.grade([ROOT])) == [Grade.RIGHT]
        assert ended.is_set() and not psutil.pid_exists(stopped)
        # nor does a later one hold up the end: python waits for its children without a limit
        (child,) = pool._workers
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)  # type: ignore[attr-defined]
    child.process.join(DEADLINE_S)
    assert child.process.exitcode is not None
