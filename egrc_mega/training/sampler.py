"""Samples all the time, in a thread of its own, while the policy trains: `rollout.mode: async`.

The thread `sampler` owns one stream of requests for a whole stage. It sends what the pool admits, grades whole groups,
and hands a step's batch to the trainer once the pool gives it. The weights move under its requests. What the trainer
wants of it goes through an inbox that the thread empties between two outcomes, so nothing here is locked but the error
that has ended it.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from egrc_mega.errors import RolloutError
from egrc_mega.methods.method import Judge
from egrc_mega.observe.spans import span
from egrc_mega.rollout.environment import Environment
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.stream import Stream
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.stages.state import Position
from egrc_mega.training.collection import Planner, StepGroups
from egrc_mega.training.pool import Entry, Pool
from egrc_mega.training.staleness import version_number
from egrc_mega.training.turn import Turn

SAMPLER = "sampler"
"""Name of the thread."""


class Sampling:
    """Of one stage: its pool, its requests, and the graders. Everything but `post` belongs to one thread."""

    def __init__(self, pool: Pool, stream: Stream, judge: Judge) -> None:
        self.pool, self.stream, self.judge = pool, stream, judge
        self.is_over = False
        self._inbox: deque[Callable[[], None]] = deque()
        self._wanted: Future[StepGroups] | None = None

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

    Nothing is lost with what is open when the run ends: the position that a step leaves holds its places.
    """

    def __init__(
        self,
        section: RolloutSection,
        planner: Planner,
        fleet: Fleet,
        environment: Environment | None,
        judge: Judge,
        num_refused: int = 0,
    ) -> None:
        """`num_refused`: prompts that the run has lost to refusals before."""
        self.section, self.planner, self.fleet = section, planner, fleet
        self.environment, self.judge, self.num_refused = environment, judge, num_refused
        self.sampling: Sampling | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        """What has ended the thread."""
        self._found: Future[StepGroups] | None = None
        """What the trainer waits for."""
        fleet.versions.listeners.append(self._note_version)
        fleet.recovery.listeners.append(self._give_up)

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
            found: Future[StepGroups] = Future()
            with self._lock:
                if self._error is not None:
                    raise self._error
                self._found = found
            sampling = self.sampling
            assert sampling is not None and sampling.pool.next_step == turn.step
            sampling.post(lambda: sampling.want(turn, found))
            # every request has its deadlines, and so has every answer to be graded
            return found.result()

    def _open(self, turn: Turn, position: Position) -> None:
        """Begin a stage, or go on in one after a resume; nothing of what was open is trained."""
        self.close()
        if self._thread is not None:  # it ends its requests first; at most it grades what came last
            self._thread.join()
        refused = self.sampling.pool.num_refused if self.sampling else self.num_refused
        newest = self.fleet.versions.newest
        version = turn.step if newest is None else min(turn.step, version_number(newest))
        pool = Pool(self.section, self.planner, turn, position, version, refused)
        self.sampling = Sampling(pool, self.fleet.stream(self.environment), self.judge)
        # a daemon: when the run ends early nobody waits for it
        self._thread = threading.Thread(target=self._work, args=(self.sampling,), name=SAMPLER, daemon=True)
        self._thread.start()

    def _work(self, sampling: Sampling) -> None:
        try:
            with sampling.stream:
                sampling.send()
                while not sampling.is_over:
                    sampling.go_on()
        except BaseException as error:
            with self._lock:
                self._error, found = error, self._found
            if found is not None and not found.done():
                found.set_exception(error)

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
        """End the stage's sampling, without waiting for it."""
        if self.sampling is not None:
            self.sampling.post(self.sampling.end)
