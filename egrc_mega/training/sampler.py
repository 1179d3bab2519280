"""Samples all the time, in a thread of its own, while the policy trains: `rollout.mode: async`.

The thread `sampler` owns one stream of requests for a whole stage. It sends what the pool admits, grades whole groups,
and hands a step's batch to the trainer once the pool gives it. The weights move under its requests. What others want of
it goes through an inbox that the thread empties between two outcomes, and what becomes of it through futures, so
nothing here is locked.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from egrc_mega.errors import RolloutError
from egrc_mega.methods.method import Judge
from egrc_mega.observe.spans import span
from egrc_mega.rollout.stream import Stream
from egrc_mega.stages.state import Position
from egrc_mega.training.collection import Means, StepGroups
from egrc_mega.training.pool import Entry, Pool
from egrc_mega.training.staleness import version_number
from egrc_mega.training.turn import Turn

SAMPLER = "sampler"
"""Name of the thread."""


class Sampling:
    """Of one stage: its pool, its requests, and the graders. `post` is for any thread, everything else for one."""

    def __init__(self, pool: Pool, stream: Stream, judge: Judge) -> None:
        self.pool, self.stream, self.judge = pool, stream, judge
        self.is_over = False
        self.ended: Future[None] = Future()
        """Nothing more comes of it; with the error, if one has ended it."""
        self._inbox: deque[Callable[[], None]] = deque()
        self._wanted: Future[StepGroups] | None = None

    def run(self) -> None:
        """Sample until the stage is over, or something goes wrong."""
        try:
            with self.stream:
                self.send()
                while not self.is_over:
                    self.go_on()
            self.ended.set_result(None)
        except BaseException as error:
            self.ended.set_exception(error)

    def post(self, message: Callable[[], None]) -> None:
        """Have the thread do something between two outcomes; from any thread."""
        self._inbox.append(message)
        self.stream.wake()

    def want(self, turn: Turn, found: "Future[StepGroups]") -> None:
        """A message: the trainer waits for the groups of this turn, which is the next to be taken."""
        self.pool.move_on(turn)
        self._wanted = found

    def end(self) -> None:
        """A message: the stage is over."""
        self.is_over = True

    def go_on(self) -> None:
        """Wait for an outcome or a message, and do what follows from it."""
        whole = self.pool.note(self.stream.take())
        while self._inbox:
            self._inbox.popleft()()
        if self.is_over:
            return
        if whole:
            self._grade(whole)
        self.send()
        self._answer()

    def send(self) -> None:
        """What has grown too old is begun anew, and what may be asked for is."""
        groups = self.pool.requeue() + self.pool.admit()
        if abandoned := self.pool.take_abandoned():
            self.stream.cancel(abandoned)
        if groups:
            self.stream.add([request for group in groups for request in group.requests])

    def _grade(self, whole: list[Entry]) -> None:
        with span("grade"):
            samples = self.judge([one for entry in whole for one in entry.asked.drawn], self.pool.turn.method.needs)
        for entry in whole:
            count = len(entry.asked.requests)
            self.pool.keep(entry, samples[:count])
            samples = samples[count:]

    def _answer(self) -> None:
        """Hand out the batch that is waited for, when it is there; the next step may replace dropped groups again."""
        if self._wanted is None:
            return
        groups = self.pool.take()
        if groups is not None:
            found, self._wanted = self._wanted, None
            self.send()
            found.set_result(groups)


class Sampler:
    """Stands where `Ahead` does in the other modes: one stage's sampling after the other.

    Nothing is lost with what is open when the run ends: the position that a step leaves holds its places. What becomes
    of places that a stage leaves open when a rule ends it counts for nothing, for the next stage asks for them again.
    """

    def __init__(self, means: Means, num_refused: int = 0) -> None:
        """`num_refused`: prompts that the run has lost to refusals before."""
        self.means, self.num_refused = means, num_refused
        self.sampling: Sampling | None = None
        self._thread: threading.Thread | None = None
        means.fleet.versions.listeners.append(self._note_version)
        means.fleet.recovery.listeners.append(self._give_up)

    def begin(self, turn: Turn, position: Position) -> None:
        """Sampling goes on as this turn asks for; its groups are taken after those that train now."""
        if self.sampling is not None:
            pool = self.sampling.pool
            self.sampling.post(lambda: pool.move_on(turn))

    def collect(self, turn: Turn, position: Position) -> StepGroups:
        """The turn's groups; waits until the batch is there.

        Raises:
            RolloutError: too many requests were lost or refused, or too few groups have a signal.
        """
        with span("rollout"):
            if self.sampling is None or turn.opens_stage:
                self._open(turn, position)
            sampling, found = self.sampling, Future[StepGroups]()
            assert sampling is not None and sampling.pool.next_step == turn.step
            sampling.post(lambda: sampling.want(turn, found))
            # every request has its deadlines, and so has every answer to be graded
            either: list[Future[Any]] = [found, sampling.ended]
            wait(either, return_when=FIRST_COMPLETED)
            if not found.done():
                sampling.ended.result()
            groups = found.result()
        self.num_refused += groups.counts["refused_groups"]
        return groups

    def _open(self, turn: Turn, position: Position) -> None:
        """Begin a stage, or go on in one after a resume; nothing of what was open is trained."""
        self.close()
        if self._thread is not None:  # it ends its requests first; at most it grades what came last
            self._thread.join()
        means = self.means
        pool = Pool(means.section, means.planner, turn, position, self._version(turn), self.num_refused)
        self.sampling = Sampling(pool, means.stream(), means.judge)
        # from here on it hears of versions; one that has come meanwhile it has missed
        self._note_version(f"v{self._version(turn)}")
        # a daemon: when the run ends early nobody waits for it
        self._thread = threading.Thread(target=self.sampling.run, name=SAMPLER, daemon=True)
        self._thread.start()

    def _version(self, turn: Turn) -> int:
        """Number of the newest weights that every server has; servers that were given none have the turn's."""
        newest = self.means.fleet.versions.newest
        return turn.step if newest is None else min(turn.step, version_number(newest))

    def _note_version(self, name: str) -> None:
        """In the fleet's loop: every server has these weights."""
        if (sampling := self.sampling) is not None:
            sampling.post(lambda: sampling.pool.note_version(name))

    def _give_up(self, error: RolloutError) -> None:
        """In the fleet's loop: no server will answer any more, and no weights will come that the pool waits for."""

        def fail() -> None:
            raise error

        if self.sampling is not None:
            self.sampling.post(fail)

    def close(self) -> None:
        """The stage has ended: nothing more is sampled for it. Waits for nobody."""
        if self.sampling is not None:
            self.sampling.post(self.sampling.end)
