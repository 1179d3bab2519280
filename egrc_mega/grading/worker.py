"""One grading process: the child that judges, and the parent's handle that kills it when it is overdue.

The kernel ends a child that has spent its CPU time: the verdict is the same on an idle and on a busy machine. The
deadline on the clock is far, and only for a child that gets no CPU at all. Forked from multiprocessing's fork server,
preloaded. The messages are JSON: the parent reads no pickle from a child.
"""

import contextlib
import importlib
import json
import logging
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from typing import Any

from egrc_mega.child_environment import secrets, without_secrets
from egrc_mega.errors import GradingError
from egrc_mega.grading.grader import GRADERS, Grader
from egrc_mega.grading.verdicts import Reason
from egrc_mega.plugins import load_plugins
from egrc_mega.types import Grade, Hints, Verdict

MEMORY_LIMIT_BYTES = 4 * 2**30
START_TIMEOUT_S = 60.0
FORK_TIMEOUT_S = 300.0
"""For the fork server to import what it preloads and to fork."""
KILL_TIMEOUT_S = 10.0
MAX_STARTS = 3
READY = b"ready"
SPENT = (-signal.SIGPROF, -signal.SIGXCPU)
"""Exit codes of a child that has spent its CPU time."""
MATH = json.dumps({"section": {"grader": "math"}, "plugins": [], "variables": {}})
"""The recipe of the built-in grader."""
_main_is_hidden, _secrets_are_hidden = threading.Lock(), threading.Lock()


@dataclass(frozen=True, slots=True)
class Budget:
    """What one answer may take."""

    cpu_s: float
    """CPU time; an answer that spends it is wrong."""
    timeout_s: float
    """On the clock: a machine that gives an answer no CPU time for so long has failed it."""


class Loss(Enum):
    """How a child was lost with its item, and the verdict if that happens again."""

    DIED = Verdict(grade=Grade.WRONG, reason=Reason.DIED)
    OVERDUE = Verdict(grade=Grade.UNGRADED, reason=Reason.NO_TIME)

    @property
    def verdict(self) -> Verdict:
        """On the item, when it is lost for good."""
        return self.value


class Worker:
    """The parent's handle. At most one item is under way; a verdict or a loss ends it."""

    def __init__(self, budget: Budget, recipe: str) -> None:
        """Fork a child; `budget` is that of each of its items, `recipe` says which grader it is.

        Raises:
            OSError, EOFError: no process can be had.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["egrc_mega.grading.preload"])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, budget.cpu_s, recipe), daemon=True)
        with theirs, _hidden_main(), _hidden_secrets(), _patience_with_the_fork_server():
            self.process.start()
        self.budget = budget
        self.item: int | None = None
        self._deadline = math.inf

    def is_ready(self) -> bool:
        """Wait for the child's first message; False when it has died or START_TIMEOUT_S has passed."""
        try:
            return self.connection.poll(START_TIMEOUT_S) and self.connection.recv_bytes() == READY
        except (EOFError, OSError):
            return False

    def is_gone(self) -> bool:
        """True when an idle child has closed its end: it has nothing else to say."""
        return self.item is None and self.connection.poll()

    def give(self, item: int, pair: tuple[str | None, str, Hints]) -> None:
        """Send an item, called by its number, to an idle child. Its time starts now."""
        assert self.item is None
        answer, gold, hints = pair
        self.item, self._deadline = item, time.monotonic() + self.budget.timeout_s
        # a child that dies in this moment is noticed when its verdict is asked for
        with contextlib.suppress(OSError):
            self.connection.send_bytes(json.dumps([answer, gold, asdict(hints)]).encode())

    def time_left_s(self) -> float:
        """Seconds until the item is overdue, never negative."""
        return max(0.0, self._deadline - time.monotonic())

    def take_verdict(self) -> Verdict | Loss | None:
        """The verdict if it is there, else None; a loss, and the child killed, when it is dead or overdue."""
        try:
            # a verdict that is there counts, however late the parent looks
            if self.connection.poll():
                grade, reason = json.loads(self.connection.recv_bytes())
                self.item = None
                return Verdict(grade=Grade(grade), reason=reason)
        except (EOFError, OSError):
            self.process.join(KILL_TIMEOUT_S)
            has_spent = self.process.exitcode in SPENT
            self.kill()
            return Verdict(grade=Grade.WRONG, reason=Reason.TOO_SLOW) if has_spent else Loss.DIED
        if self.time_left_s() > 0:
            return None
        self.kill()
        return Loss.OVERDUE

    def kill(self) -> None:
        """End the child; harmless when called twice."""
        self.connection.close()
        self.process.kill()
        # SIGKILL needs no patience; the deadline is for a fork server that is stopped and tells of no end, and for a
        # process stuck in the kernel, which nothing here can mend
        self.process.join(KILL_TIMEOUT_S)
        if self.process.exitcode is None:
            _end_fork_server()
            self.process.join(KILL_TIMEOUT_S)

    @property
    def is_killed(self) -> bool:
        """True once `kill` was called."""
        return self.connection.closed


def recipe_of(grader: Grader, plugins: Sequence[str]) -> str:
    """What a child needs to build the same grader: JSON, for nothing is pickled.

    A grader from outside may ask somebody who wants a key: with plugins a child has the variables that others have not.
    """
    section, variables = grader.section.model_dump(mode="json"), secrets() if plugins else {}
    return json.dumps({"section": section, "plugins": list(plugins), "variables": variables})


def _built(recipe: str) -> Grader:
    """The grader of a recipe, in the child."""
    for module in ("math", "compat"):  # the built-in graders join their family by being defined
        importlib.import_module(f"egrc_mega.grading.{module}")
    parts = json.loads(recipe)
    os.environ.update(parts["variables"])
    GRADERS.use_plugins(load_plugins(parts["plugins"]))
    grader = GRADERS[parts["section"]["grader"]]
    return grader(grader.Config.model_validate(parts["section"]))


def start_worker(budget: Budget, recipe: str = MATH) -> Worker:
    """A child that is ready.

    Raises:
        GradingError: three in a row did not start.
    """
    reason = f"it died, or was not ready after {START_TIMEOUT_S:g} s"
    for _ in range(MAX_STARTS):
        try:
            worker = Worker(budget, recipe)
        except (OSError, EOFError) as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else "the process that forks it has ended"
            continue
        if worker.is_ready():
            return worker
        worker.kill()
    raise GradingError(
        f"a grading process did not start, {MAX_STARTS} times in a row ({reason}); see its traceback above, the memory "
        f"that is left and the limit on processes (ulimit -u), or lower grading.num_workers"
    )


@contextlib.contextmanager
def _patience_with_the_fork_server() -> Iterator[None]:
    """Multiprocessing waits for it without a limit: after one it is ended, and the next child has a new one."""
    timer = threading.Timer(FORK_TIMEOUT_S, _end_fork_server)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_fork_server() -> None:
    """Kill the process that forks the children of this one: whoever waits for it sees its pipes end."""
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    with contextlib.suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Hide where the caller's `__main__` came from while a child is described.

    Multiprocessing would have each child import it again: a trainer's costs seconds and gigabytes, and a script without
    a `__name__` guard would start itself anew. Graders need nothing of it.
    """
    main = vars(sys.modules["__main__"])
    with _main_is_hidden:
        hidden: dict[str, object] = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
        main["__spec__"] = None
        try:
            yield
        finally:
            del main["__spec__"]
            main.update(hidden)


@contextlib.contextmanager
def _hidden_secrets() -> Iterator[None]:
    """Start the fork server, where it does not run yet, without the secret ones of our variables.

    What it forks has them in its memory, whatever it deletes later, and judges texts of others.
    """
    with _secrets_are_hidden:
        spawn, util.spawnv_passfds = util.spawnv_passfds, _spawn_without_secrets  # type: ignore[assignment]
        try:
            yield
        finally:
            util.spawnv_passfds = spawn


def _spawn_without_secrets(path: bytes, arguments: Sequence[Any], descriptors: Sequence[int]) -> int:
    """`multiprocessing.util.spawnv_passfds` with variables of its own; the child's number."""
    child = subprocess.Popen(
        arguments, executable=path, pass_fds=descriptors, env=without_secrets(), restore_signals=False
    )
    child.returncode = 0  # multiprocessing waits for it by its number
    return child.pid


def serve(connection: Connection, cpu_s: float, recipe: str) -> None:
    """A child's life: receive an item, send its verdict; the end of the pipe, so the parent's death, ends it."""
    _prepare()
    grader = _built(recipe)
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(READY)
        while True:
            answer, gold, hints = json.loads(connection.recv_bytes())
            with _cpu_time(cpu_s):
                verdict = _judged(grader, answer, gold, Hints(**hints))
            connection.send_bytes(json.dumps([verdict.grade.value, str(verdict.reason)]).encode())


def _judged(grader: Grader, answer: str, gold: str, hints: Hints) -> Verdict:
    """An answer that brings the grader to its knees is wrong."""
    try:
        return grader.judge(answer, gold, hints)
    except (MemoryError, RecursionError):
        return Verdict(grade=Grade.WRONG, reason=Reason.TOO_BIG)
    except Exception:  # whatever an answer provokes in there is the answer's own failure
        return Verdict(grade=Grade.WRONG, reason=Reason.DIED)


@contextlib.contextmanager
def _cpu_time(cpu_s: float) -> Iterator[None]:
    """Let the kernel end this process when the item has taken so much: within C code, and without the parent, too."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


def _prepare() -> None:
    """Bound the memory, leave no core file, print nothing, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower_limit(resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)


def _lower_limit(kind: int, value: int) -> None:
    """Set a soft limit, below the hard limit that was there."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
