"""A step's groups, whole ones only: over-sampling with abort of the rest, dynamic sampling with refill.

Prompts are taken in the order of the run's cursor. A group that was aborted is carried: the next step asks for it
first, from the start or, with `rollout.partial_rollouts`, from its last tokens; version spans say which weights wrote
what. So no prompt is lost, and slow ones are not trained on less than quick ones.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from egrc_mega.config.schema import RolloutSection
from egrc_mega.data.prompts import PromptSource
from egrc_mega.errors import RolloutError
from egrc_mega.methods.base import Method
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.segments import Environment
from egrc_mega.rollout.stream import Outcome, Refused, Stream
from egrc_mega.training.schedule import Step
from egrc_mega.training.staleness import oldest_lag
from egrc_mega.types import Completion, FinishReason, Group, Prompt, RolloutRequest, Sample

Judge = Callable[[Sequence[tuple[Prompt, Completion]]], list[Sample]]


@dataclass(slots=True, eq=False)
class OpenGroup:
    """A prompt whose samples are under way."""

    place: int
    """The prompt's number since the start of the run."""
    prompt: Prompt
    requests: Sequence[RolloutRequest]
    done: dict[str, Completion] = field(default_factory=dict)
    """Finished responses, by rid."""
    begun: dict[str, Completion] = field(default_factory=dict)
    """Responses that an earlier step began and aborted."""
    is_refused: bool = False

    @property
    def is_whole(self) -> bool:
        """Every sample is there."""
        return len(self.done) == len(self.requests)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands in its prompts: enough to go on after a restart."""

    cursor: int
    """Prompts asked for so far."""
    carried: tuple[int, ...]
    """Prompts that were asked for, aborted, and come first in the next step."""


@dataclass(frozen=True, slots=True)
class Collected:
    """A step's groups in the order of their prompts."""

    groups: list[Group]
    position: Position
    """After this step."""
    times: dict[str, float]
    counts: dict[str, int]
    """Fields of the step's record."""


class Collector:
    """Asks the fleet for groups and the graders for verdicts. One step at a time, from any thread."""

    def __init__(
        self,
        section: RolloutSection,
        prompts: PromptSource,
        fleet: Fleet,
        environment: Environment | None,
        judge: Judge,
        run_seed: int,
        stop_token_ids: tuple[int, ...],
    ) -> None:
        self.section, self.prompts, self.fleet, self.environment = section, prompts, fleet, environment
        self.judge, self.run_seed, self.stop_token_ids = judge, run_seed, stop_token_ids
        self.num_refused = 0
        self._waiting: list[OpenGroup] = []

    def collect(self, step: Step, method: Method, position: Position) -> Collected:
        """The groups of a step.

        Raises:
            RolloutError: too many requests were lost or refused, or too few groups have a signal.
        """
        collection = _Collection(self, step, method, position)
        with self.fleet.stream(self.environment) as stream:
            return collection.run(stream)

    def plan(self, place: int, number: int, step: Step, method: Method) -> OpenGroup:
        """The requests of one prompt, the `number`-th of its step."""
        [prompt] = self.prompts.take(place, 1)
        requests = method.plan(
            [prompt], step=step.index, run_seed=self.run_seed, stop_token_ids=self.stop_token_ids, first=number
        )
        return OpenGroup(place, prompt, requests)

    def take_waiting(self, position: Position, step: Step, method: Method) -> list[OpenGroup]:
        """The groups that an earlier step left; after a restart or in another stage, from the start."""
        waiting, self._waiting = {group.place: group for group in self._waiting}, []
        planned = []
        for number, place in enumerate(position.carried):
            group = waiting.get(place)
            if group is None or step.opens_stage:
                group = self.plan(place, -1 - number, step, method)
            planned.append(group)
        return planned

    def keep_waiting(self, groups: list[OpenGroup]) -> None:
        """For the next step."""
        self._waiting = groups


class _Collection:
    """One step's."""

    def __init__(self, collector: Collector, step: Step, method: Method, position: Position) -> None:
        self.collector, self.step, self.method = collector, step, method
        self.section = collector.section
        self.position = position
        self.wanted = self.section.prompts_per_step
        self.cursor = position.cursor
        self.num_asked = 0
        self.open: list[OpenGroup] = []
        self.group_of: dict[str, OpenGroup] = {}
        """By rid."""
        self.kept: list[tuple[int, Group]] = []
        self.counts = dict.fromkeys(
            ("sampled_groups", "groups_without_signal", "refused_groups", "aborted_requests", "carried_groups"), 0
        )
        self.grade_s = 0.0

    def run(self, stream: Stream) -> Collected:
        """Ask, take, judge, until there are enough groups."""
        started = time.monotonic()
        self._send(stream, self.collector.take_waiting(self.position, self.step, self.method))
        self._ask(stream, math.ceil(self.wanted * self.section.over_sampling) - len(self.open))
        while True:
            self._close_whole()
            missing = self.wanted - len(self.kept)
            if self.section.dynamic_sampling and missing:
                self._ask(stream, math.ceil((missing - len(self.open)) * self.section.over_sampling))
            if not missing or not stream.num_open:
                break
            self._note(stream.take())
        self._note(stream.abort())
        if missing and self.section.dynamic_sampling:
            raise self._too_few()
        if not self.kept:
            raise RolloutError(f"rollout.max_refused: servers refused every prompt of step {self.step.index + 1}")
        carried = self._left_over()
        self.collector.keep_waiting(carried)
        self.kept.sort(key=lambda pair: pair[0])
        seconds = time.monotonic() - started
        return Collected(
            groups=[group for _place, group in self.kept],
            position=Position(self.cursor, tuple(group.place for group in carried)),
            times={"rollout": seconds - self.grade_s, "grade": self.grade_s},
            counts=self.counts,
        )

    def _ask(self, stream: Stream, count: int) -> None:
        """New prompts; under dynamic sampling no more than its limit allows."""
        if self.section.dynamic_sampling:
            count = min(count, math.floor(self.wanted * self.section.dynamic_sampling_limit) - self.num_asked)
        count = max(0, count)
        numbers = range(self.num_asked, self.num_asked + count)
        plan = self.collector.plan
        self._send(stream, [plan(self.cursor + i, n, self.step, self.method) for i, n in enumerate(numbers)])
        self.cursor += count
        self.num_asked += count

    def _too_few(self) -> RolloutError:
        return RolloutError(
            f"rollout.dynamic_sampling: {self.num_asked} prompts gave {len(self.kept)} of {self.wanted} groups "
            f"with an advantage in step {self.step.index + 1}; raise rollout.dynamic_sampling_limit = "
            f"{self.section.dynamic_sampling_limit:g}, take other problems, or switch it off"
        )

    def _send(self, stream: Stream, groups: Sequence[OpenGroup]) -> None:
        """All at once: servers compute together what arrives together."""
        self.open += groups
        self.group_of |= {request.rid: group for group in groups for request in group.requests}
        self.counts["sampled_groups"] += len(groups)
        begun = {rid: completion for group in groups for rid, completion in group.begun.items()}
        stream.add([r for group in groups for r in group.requests if r.rid not in group.done], begun)

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Every outcome goes to its group."""
        for outcome in outcomes:
            if isinstance(outcome, Refused):
                self._refuse(self.group_of[outcome.request.rid], outcome)
                continue
            group = self.group_of[outcome.rid]
            if outcome.finish_reason is FinishReason.ABORT:
                self.counts["aborted_requests"] += 1
                group.begun[outcome.rid] = outcome
            else:
                group.done[outcome.rid] = outcome

    def _refuse(self, group: OpenGroup, refused: Refused) -> None:
        """The group is absent; a budget of its own says how many may be."""
        if not group.is_refused:
            group.is_refused = True
            self.counts["refused_groups"] += 1
            self.collector.num_refused += 1
        if self.collector.num_refused > self.section.max_refused:
            raise RolloutError(
                f"{refused.reason}; rollout.max_refused = {self.section.max_refused} prompts of a run is used up"
            )

    def _close_whole(self) -> None:
        """Judge groups that are whole, no more than are missing, and keep those that teach something."""
        self.open = [group for group in self.open if not group.is_refused]
        while whole := [group for group in self.open if group.is_whole][: self.wanted - len(self.kept)]:
            self.open = [group for group in self.open if group not in whole]
            started = time.monotonic()
            samples = self.collector.judge([(g.prompt, g.done[r.rid]) for g in whole for r in g.requests])
            self.grade_s += time.monotonic() - started
            for group in whole:
                own, samples = samples[: len(group.requests)], samples[len(group.requests) :]
                self._keep(group.place, Group(prompt=group.prompt, samples=tuple(own)))

    def _keep(self, place: int, group: Group) -> None:
        if self.section.dynamic_sampling and not any(self.method.advantages([group])[0]):
            self.counts["groups_without_signal"] += 1
        else:
            self.kept.append((place, group))

    def _left_over(self) -> list[OpenGroup]:
        """What the next step asks for first; without tokens that are too old by then, or without any."""
        for group in self.open:
            for part in (group.done, group.begun):
                for rid, completion in list(part.items()):
                    is_fresh = oldest_lag([completion], self.step.index + 1) <= self.section.max_version_lag
                    if not (self.section.partial_rollouts and is_fresh and completion.sampled.any()):
                        del part[rid]
        self.counts["carried_groups"] = len(self.open)
        return self.open
