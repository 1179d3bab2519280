"""Collects the next step's groups in a thread of its own, while the present step trains."""

import threading
from concurrent.futures import Future, wait

from egrc_mega.observe.spans import span
from egrc_mega.stages.state import Position
from egrc_mega.training.accounting import AHEAD
from egrc_mega.training.collection import Collector, StepGroups
from egrc_mega.training.turn import Turn


class Ahead:
    """At most one batch ahead. Nothing is lost with one that is not taken: the run's position moves when it is."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self._begun: Future[StepGroups] | None = None
        self._num_refused = 0
        """Prompts that were lost to refusals before the batch was begun."""

    def begin(self, turn: Turn, position: Position) -> None:
        """Begin to collect a turn's groups, with the weights that the servers have."""
        found: Future[StepGroups] = Future()

        def work() -> None:
            try:
                with span(AHEAD, step=turn.step):
                    groups = self.collector.collect(turn, position)
                found.set_result(groups)
            except BaseException as error:
                found.set_exception(error)

        self._begun, self._num_refused = found, self.collector.num_refused
        # a daemon: when the run ends early nobody waits for it
        threading.Thread(target=work, name=AHEAD, daemon=True).start()

    def collect(self, turn: Turn, position: Position) -> StepGroups:
        """The turn's groups: those that were begun, else new ones.

        What was begun for a stage that has ended is dropped, with whatever has become of it: its problems are asked
        for again.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return self.collector.collect(turn, position)
        with span("rollout"):
            # every request has its deadlines
            wait([begun])
        if not turn.opens_stage:
            return begun.result()
        self.collector.num_refused = self._num_refused
        return self.collector.collect(turn, position)

    def close(self) -> None:
        """The stage has ended: what was begun for it goes on until the next one asks."""
