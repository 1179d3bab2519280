"""A pool of grading processes with a parent-side deadline: what misses it is killed, replaced and ungraded.

Threads cannot be stopped and math-verify can run for ever, so what is not plain at sight is judged in a child. A child
that dies, hangs or runs out of memory costs its one item, never the run.
"""

import threading
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from egrc_mega.errors import GradingError
from egrc_mega.grading.grader import Grader
from egrc_mega.grading.math import MathGrader, MathGraderSection
from egrc_mega.grading.worker import Worker, recipe_of, start_worker
from egrc_mega.types import Grade

Pair = tuple[str | None, str]


class GraderPool:
    """Use as a context manager: leaving it stops the children. `grade` may be called from any thread."""

    def __init__(
        self, num_workers: int, timeout_s: float, grader: Grader | None = None, plugins: Sequence[str] = ()
    ) -> None:
        """Start the children; `timeout_s` is the deadline of one answer.

        Args:
            grader: who judges; None: the built-in one for mathematics.
            plugins: what the children import first, for a grader from outside the package.

        Raises:
            GradingError: they do not start.
        """
        self.num_workers, self.timeout_s = num_workers, timeout_s
        self.grader = grader or MathGrader(MathGraderSection())
        self._recipe = recipe_of(self.grader, plugins)
        self._workers: list[Worker] = []
        self._is_open = True
        self._one_at_a_time = threading.Lock()
        try:
            self._fill()
        except BaseException:
            self.close()
            raise

    def grade(self, pairs: Sequence[Pair]) -> list[Grade]:
        """Verdicts on (extracted answer or None, gold), in order. No answer is wrong. Blocks until all are judged.

        Raises:
            GradingError: the pool is closed, or a child cannot be replaced.
        """
        at_sight = self.grader.judge_at_sight
        verdicts = [Grade.WRONG if answer is None else at_sight(answer, gold) for answer, gold in pairs]
        with self._one_at_a_time:
            try:
                self._judge_the_rest(pairs, verdicts)
            finally:
                # after an exception verdicts are still under way: the next call must not take them for its own
                for worker in self._workers:
                    if worker.item is not None:
                        worker.kill()
        return [verdict for verdict in verdicts if verdict is not None]

    def _judge_the_rest(self, pairs: Sequence[Pair], verdicts: list[Grade | None]) -> None:
        """Fill the gaps in `verdicts`; one item at a time to each child: a deadline hits only the guilty one."""
        queue = deque(i for i, verdict in enumerate(verdicts) if verdict is None)
        while True:
            self._fill()
            for worker in self._workers:
                if worker.item is None and queue:
                    item = queue.popleft()
                    answer, gold = pairs[item]
                    assert answer is not None
                    worker.give(item, answer, gold)
            busy = [worker for worker in self._workers if worker.item is not None]
            if not busy:
                return
            _collect(busy, verdicts)

    def _fill(self) -> None:
        """Replace the children that were killed or have died."""
        if not self._is_open:
            raise GradingError("the grading pool is closed; grade inside its `with` block")
        for worker in list(self._workers):
            if worker.is_killed or worker.is_gone():
                worker.kill()
                self._workers.remove(worker)
        while len(self._workers) < self.num_workers:
            self._workers.append(start_worker(self.timeout_s, self._recipe))

    def close(self) -> None:
        """Stop the children; harmless when called twice."""
        self._is_open = False
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _collect(busy: list[Worker], verdicts: list[Grade | None]) -> None:
    """Wait for the first verdict or deadline, then take what is there."""
    wait([worker.connection for worker in busy], timeout=min(worker.time_left_s() for worker in busy))
    for worker in busy:
        item = worker.item
        assert item is not None
        verdicts[item] = worker.take_verdict()
