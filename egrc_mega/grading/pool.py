"""A pool of grading processes, in which an answer has so much CPU time and a far deadline, and is then killed.

Threads cannot be stopped, so what is not plain at sight is judged in a child. An answer that spends its time or kills
its child twice is wrong; ungraded is what the machine, twice, gave no time to.
"""

import threading
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from egrc_mega.errors import GradingError
from egrc_mega.grading.grader import Grader
from egrc_mega.grading.math import MathGrader, MathGraderSection
from egrc_mega.grading.verdicts import Reason
from egrc_mega.grading.worker import Budget, Loss, Worker, recipe_of, start_worker
from egrc_mega.types import Grade, Hints, Verdict

Pair = tuple[str | None, str, Hints]
"""The extracted answer, None where there is none; the gold; what the data set says about it."""
NO_ANSWER = Verdict(grade=Grade.WRONG, reason=Reason.NO_BOX)
MAX_TRIES = 2
"""Of an answer whose child is lost: the first loss may have been anybody's fault."""


class GraderPool:
    """Use as a context manager: leaving it stops the children. `grade` may be called from any thread."""

    def __init__(
        self, num_workers: int, budget: Budget, grader: Grader | None = None, plugins: Sequence[str] = ()
    ) -> None:
        """Start the child processes.

        Args:
            budget: what one answer may take.
            grader: who judges; None: the built-in one for mathematics.
            plugins: what the children import first, for a grader from outside the package.

        Raises:
            GradingError: they do not start.
        """
        self.num_workers, self.budget = num_workers, budget
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

    def grade(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Verdicts, in order. No answer is wrong. Blocks until all are judged.

        Raises:
            GradingError: the pool is closed, or a child cannot be replaced.
        """
        at_sight = self.grader.judge_at_sight
        verdicts = [NO_ANSWER if answer is None else at_sight(answer, gold, hints) for answer, gold, hints in pairs]
        with self._one_at_a_time:
            try:
                self._judge_the_rest(pairs, verdicts)
            finally:
                # after an exception verdicts are still under way: the next call must not take them for its own
                for worker in self._workers:
                    if worker.item is not None:
                        worker.kill()
        return [verdict for verdict in verdicts if verdict is not None]

    def _judge_the_rest(self, pairs: Sequence[Pair], verdicts: list[Verdict | None]) -> None:
        """Fill the gaps in `verdicts`; one item at a time to each child: a loss hits only the guilty one."""
        queue = deque(i for i, verdict in enumerate(verdicts) if verdict is None)
        tries: Counter[int] = Counter()
        while True:
            self._fill()
            for worker in self._workers:
                if worker.item is None and queue:
                    item = queue.popleft()
                    worker.give(item, pairs[item])
            busy = [worker for worker in self._workers if worker.item is not None]
            if not busy:
                return
            for item, outcome in _collect(busy):
                tries[item] += 1
                if isinstance(outcome, Loss) and tries[item] < MAX_TRIES:
                    queue.append(item)
                else:
                    verdicts[item] = outcome.verdict if isinstance(outcome, Loss) else outcome

    def _fill(self) -> None:
        """Replace the children that were killed or have died."""
        if not self._is_open:
            raise GradingError("the grading pool is closed; grade inside its `with` block")
        for worker in list(self._workers):
            if worker.is_killed or worker.is_gone():
                worker.kill()
                self._workers.remove(worker)
        while len(self._workers) < self.num_workers:
            self._workers.append(start_worker(self.budget, self._recipe))

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


def _collect(busy: list[Worker]) -> list[tuple[int, Verdict | Loss]]:
    """Wait for the first verdict, loss or deadline, then take what is there."""
    wait([worker.connection for worker in busy], timeout=min(worker.time_left_s() for worker in busy))
    taken = [(worker.item, worker.take_verdict()) for worker in busy]
    return [(item, outcome) for item, outcome in taken if item is not None and outcome is not None]
