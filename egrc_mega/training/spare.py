"""Spare servers: rank 0 has points measured there, one after the other, while training goes on."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from egrc_mega.config.config import Config
from egrc_mega.config.spare import spare_servers
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.errors import RolloutError
from egrc_mega.evaluation.evaluator import Evaluator, Outcome
from egrc_mega.evaluation.kept_weights import KeptWeights
from egrc_mega.evaluation.records import SHOWN_DIGITS, Subject
from egrc_mega.methods.method import Need
from egrc_mega.observe.spans import span
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.start.process import first_version
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.training.serving import Serving
from egrc_mega.types import Completion, Drawn, RolloutRequest, Sample

THREAD = "evaluation"
"""Name of the thread that measures."""
JUDGED_AT_ONCE = 64
"""Responses: graders judge for one caller at a time, and training waits for no more than these."""


class Spare:
    """Measures points in the order in which they come. Use as a context manager: leaving it stops the servers.

    Args:
        restarts: of the servers' budget, before this process.
        tell: gets the outcomes of a point as soon as they are there, in the measuring thread.
        note: gets a line about lost servers.
    """

    def __init__(
        self,
        config: Config,
        serving: Serving,
        run_dir: Path,
        log_dir: Path,
        restarts: Sequence[float],
        tell: Callable[[Subject, Sequence[Outcome]], None],
        note: Callable[[str], None],
    ) -> None:
        """Begin to start the servers, and start the thread; `wait_until_ready` before the first point.

        Raises:
            RolloutError: a port is in use, or nobody says where they are.
        """
        assert config.evaluation.spare is not None
        self.serving, self.evaluator, self.tell = serving, serving.evaluator, tell
        self.kept = KeptWeights(run_dir)
        vocab_size = read_architecture(config.model.path).vocab_size
        section = spare_servers(config.rollout, config.evaluation.spare)
        with _named():
            self.fleet = Fleet.start(
                section,
                config.model.path,
                first_version(),
                log_dir,
                vocab_size=vocab_size,
                note=lambda line: note(f"spare {line}"),
                waits=False,
            )
        self.fleet.restarts.recall(restarts)
        self.evaluator.generate, self.evaluator.judge = self._generate, self._judge
        self._found: dict[Subject, Future[list[Outcome]]] = {}
        self._waiting: SimpleQueue[tuple[Subject, Future[list[Outcome]]]] = SimpleQueue()
        # a daemon: when the run ends early nobody waits for it
        threading.Thread(target=self._work, name=THREAD, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Until every server answers.

        Raises:
            RolloutError: one does not come up, or does not answer.
        """
        with _named():
            self.fleet.wait_until_ready()

    def begin(self, subject: Subject) -> None:
        """Have a point measured once those before it are; its weights are kept."""
        found: Future[list[Outcome]] = Future()
        self._found[subject] = found
        self._waiting.put((subject, found))

    def outcomes(self, subject: Subject) -> list[Outcome]:
        """Of a point that was begun; waits for them. None where its weights were lost before they were measured.

        Raises:
            RolloutError: spare servers were lost too often, or did not come back.
        """
        # every request, load and verdict has its deadline
        return self._found.pop(subject).result()

    def _work(self) -> None:
        while True:
            subject, found = self._waiting.get()
            try:
                with _named(), span("evaluation", step=subject.step):
                    outcomes = self._measured(subject)
                found.set_result(outcomes)
            except BaseException as error:
                found.set_exception(error)

    def _measured(self, subject: Subject) -> list[Outcome]:
        outcomes = measured(subject, self.evaluator, self.kept, self.fleet)
        self.tell(subject, outcomes)
        self.fleet.wait_until_recovered()  # with these weights
        self.kept.remove(subject.step or 0)
        return outcomes

    def _generate(
        self, requests: Sequence[RolloutRequest], tell: Callable[[Sequence[Completion]], None]
    ) -> list[Completion]:
        return self.fleet.generate(requests, self.serving.environment, tell)

    def _judge(self, drawn: Sequence[Drawn], needs: frozenset[Need]) -> list[Sample]:
        parts = (drawn[i : i + JUDGED_AT_ONCE] for i in range(0, len(drawn), JUDGED_AT_ONCE))
        return [sample for part in parts for sample in self.serving.judge(part, needs)]

    def take_events(self) -> list[str]:
        """What has become of the servers since the last call, in words."""
        return [str(line) for line in self.fleet.take_stats()["server_events"]]

    def take_timelines(self, wall_time: Callable[[float], float]) -> list[dict[str, Any]]:
        """What each server did since the last call; their numbers follow those of the other servers."""
        first = len(self.serving.fleet.servers)
        return [each | {"number": first + each["number"]} for each in self.fleet.take_timelines(wall_time)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.fleet.close()


@contextmanager
def _named() -> Iterator[None]:
    """Say of a lost server which field it is from."""
    try:
        yield
    except RolloutError as error:
        raise RolloutError(f"evaluation.spare: {error}") from error


def measured(subject: Subject, evaluator: Evaluator, kept: KeptWeights, fleet: Fleet) -> list[Outcome]:
    """Measure kept weights, where the table has not all their numbers; none where these weights are not there."""
    if not evaluator.knows(subject):
        if not kept.has(subject):
            return []
        version = f"measured-{subject.step}-{subject.weights[:SHOWN_DIGITS]}"
        fleet.update_weights(FolderWeights(kept.path(subject.step or 0), version))
    return evaluator.evaluate(subject)
