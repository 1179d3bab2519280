"""One grading process: the child that judges, and the parent's handle that gives it a deadline and kills it.

Forked from multiprocessing's fork server with math-verify preloaded. The messages are JSON: the parent reads no pickle
from a child.
"""

import contextlib
import importlib
import json
import math
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection

from egrc_mega.errors import GradingError
from egrc_mega.grading.grader import GRADERS, Grader
from egrc_mega.grading.verify import silence
from egrc_mega.plugins import load_plugins
from egrc_mega.types import Grade

MEMORY_LIMIT_BYTES = 4 * 2**30
START_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 10.0
MAX_STARTS = 3
READY = b"ready"
MATH = json.dumps({"section": {"grader": "math"}, "plugins": []})
"""The recipe of the built-in grader."""
_main_is_hidden = threading.Lock()


class Worker:
    """The parent's handle. At most one item is under way; a verdict or the deadline ends it."""

    def __init__(self, timeout_s: float, recipe: str) -> None:
        """Fork a child; `timeout_s` is the deadline of each of its items, `recipe` says which grader it is.

        Raises:
            OSError, EOFError: no process can be had.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["egrc_mega.grading.preload"])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, timeout_s, recipe), daemon=True)
        with theirs, _hidden_main():
            self.process.start()
        self.timeout_s = timeout_s
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

    def give(self, item: int, answer: str, gold: str) -> None:
        """Send an item, called by its number, to an idle child. Its time starts now."""
        assert self.item is None
        self.item, self._deadline = item, time.monotonic() + self.timeout_s
        # a child that dies in this moment is noticed when its verdict is asked for
        with contextlib.suppress(OSError):
            self.connection.send_bytes(json.dumps([answer, gold]).encode())

    def time_left_s(self) -> float:
        """Seconds until the item is overdue, never negative."""
        return max(0.0, self._deadline - time.monotonic())

    def take_verdict(self) -> Grade | None:
        """The verdict if it is there, else None; UNGRADED, and the child killed, when it is dead or overdue."""
        try:
            # a verdict that is there counts, however late the parent looks
            if self.connection.poll():
                verdict = Grade(self.connection.recv_bytes().decode())
                self.item = None
                return verdict
        except (EOFError, OSError):
            self.kill()
            return Grade.UNGRADED
        if self.time_left_s() > 0:
            return None
        self.kill()
        return Grade.UNGRADED

    def kill(self) -> None:
        """End the child; harmless when called twice."""
        self.connection.close()
        self.process.kill()
        # SIGKILL needs no patience; the deadline is for a process stuck in the kernel, which nothing here can mend
        self.process.join(KILL_TIMEOUT_S)

    @property
    def is_killed(self) -> bool:
        """True once `kill` was called."""
        return self.connection.closed


def recipe_of(grader: Grader, plugins: Sequence[str]) -> str:
    """What a child needs to build the same grader: JSON, for nothing is pickled."""
    return json.dumps({"section": grader.section.model_dump(mode="json"), "plugins": list(plugins)})


def _built(recipe: str) -> Grader:
    """The grader of a recipe, in the child."""
    importlib.import_module("egrc_mega.grading.math")  # the built-in grader joins its family by being defined
    parts = json.loads(recipe)
    GRADERS.use_plugins(load_plugins(parts["plugins"]))
    grader = GRADERS[parts["section"]["grader"]]
    return grader(grader.Config.model_validate(parts["section"]))


def start_worker(timeout_s: float, recipe: str = MATH) -> Worker:
    """A child that is ready.

    Raises:
        GradingError: three in a row did not start.
    """
    reason = f"it died, or was not ready after {START_TIMEOUT_S:g} s"
    for _ in range(MAX_STARTS):
        try:
            worker = Worker(timeout_s, recipe)
        except (OSError, EOFError) as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        if worker.is_ready():
            return worker
        worker.kill()
    raise GradingError(
        f"a grading process did not start, {MAX_STARTS} times in a row ({reason}); see its traceback above, the memory "
        f"that is left and the limit on processes (ulimit -u), or lower grading.num_workers"
    )


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


def serve(connection: Connection, timeout_s: float, recipe: str) -> None:
    """A child's life: receive an item, send its verdict; the end of the pipe, so the parent's death, ends it."""
    _prepare()
    judge = _built(recipe).judge
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(READY)
        while True:
            answer, gold = json.loads(connection.recv_bytes())
            _limit_cpu_time(timeout_s)
            connection.send_bytes(judge(answer, gold).value.encode())


def _prepare() -> None:
    """Bound the memory, leave no core file, print nothing, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence()
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower_limit(resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)


def _limit_cpu_time(timeout_s: float) -> None:
    """Let the kernel end this process a little after the deadline: a busy child does not see that its parent died."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _lower_limit(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + timeout_s) + 1)


def _lower_limit(kind: int, value: int) -> None:
    """Set a soft limit, below the hard limit that was there."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
