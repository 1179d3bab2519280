"""A pool of grading processes with a parent-side deadline: what misses it is killed, replaced and ungraded.

Threads cannot be stopped and math-verify can run for ever, so every answer is judged in a child (forkserver,
math-verify preloaded). A child that dies, hangs or runs out of memory costs its one item, never the run.
"""

import contextlib
import multiprocessing
import resource
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from types import TracebackType
from typing import Self

from egrc_mega.errors import GradingError
from egrc_mega.grading.verify import judge, silence
from egrc_mega.types import Grade

MEMORY_LIMIT_BYTES = 8 * 2**30
START_TIMEOUT_S = 60.0
MAX_FAILED_STARTS = 3
CHUNK = 16
"""Items sent at once; when their deadline passes, those before the guilty one have been answered already."""

Pair = tuple[str | None, str]


class GraderPool:
    """Use as a context manager: leaving it stops the children. `grade` may be called from any one thread."""

    def __init__(self, num_workers: int, timeout_s: float) -> None:
        """Start the children.

        Raises:
            GradingError: they do not start.
        """
        self.timeout_s = timeout_s
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["egrc_mega.grading.pool", "math_verify"])
        self._workers = [self._start_worker() for _ in range(num_workers)]

    def grade(self, pairs: Sequence[Pair]) -> list[Grade]:
        """Verdicts on (extracted answer or None, gold), in order. No answer is wrong."""
        grades: list[Grade] = [Grade.WRONG] * len(pairs)
        queue = deque(i for i, (answer, _gold) in enumerate(pairs) if answer is not None)
        jobs: dict[int, _Job] = {}
        while queue or jobs:
            for w in range(len(self._workers)):
                if w not in jobs and queue:
                    job = _Job(deque(queue.popleft() for _ in range(min(CHUNK, len(queue)))), self.timeout_s)
                    jobs[w] = job
                    self._send(w, [pairs[i] for i in job.items])
            self._receive(jobs, grades, queue)
        return grades

    def _send(self, w: int, items: list[Pair]) -> None:
        # a child that died while idle is noticed at the next receive
        with contextlib.suppress(BrokenPipeError):
            self._workers[w].connection.send(items)

    def _receive(self, jobs: "dict[int, _Job]", grades: list[Grade], queue: deque[int]) -> None:
        """Take verdicts that are there; replace the children that are past their deadline or dead."""
        patience = max(0.0, min(job.deadline for job in jobs.values()) - time.monotonic())
        ready = wait([self._workers[w].connection for w in jobs], timeout=patience)
        for w, job in list(jobs.items()):
            worker = self._workers[w]
            is_alive = True
            if worker.connection in ready:
                try:
                    grades[job.items.popleft()] = Grade(worker.connection.recv())
                    job.deadline = time.monotonic() + self.timeout_s
                except (EOFError, ConnectionError):
                    is_alive = False
            if is_alive and job.items and time.monotonic() < job.deadline:
                continue
            del jobs[w]
            if not job.items and is_alive:
                continue
            # the first item without a verdict is the guilty one; the others get another child
            if job.items:
                grades[job.items.popleft()] = Grade.UNGRADED
            queue.extendleft(reversed(job.items))
            worker.kill()
            self._workers[w] = self._start_worker()

    def close(self) -> None:
        """Stop the children; harmless when called twice."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _start_worker(self) -> "_Worker":
        for _ in range(MAX_FAILED_STARTS):
            worker = _Worker(self._context)
            if worker.is_ready():
                return worker
            worker.kill()
        raise GradingError(f"a grading process did not start within {START_TIMEOUT_S:g} s, {MAX_FAILED_STARTS} times")


class _Job:
    """Items that a child is working on, and when the first of them is overdue (monotonic seconds)."""

    def __init__(self, items: deque[int], timeout_s: float) -> None:
        self.items = items
        self.deadline = time.monotonic() + timeout_s


class _Worker:
    def __init__(self, context: ForkServerContext) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def is_ready(self) -> bool:
        """True when the child has said hello in time."""
        try:
            return self.connection.poll(START_TIMEOUT_S) and self.connection.recv() == "ready"
        except (EOFError, ConnectionError):
            return False

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def serve(connection: Connection) -> None:
    """A child's life: receive a chunk, send one verdict after the other; the end of the pipe ends it."""
    silence()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # the parent's death closes the pipe: EOFError ends an idle child, BrokenPipeError one that answers
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        connection.send("ready")
        while True:
            for answer, gold in connection.recv():
                connection.send(judge(answer, gold).value)
