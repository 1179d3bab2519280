"""A step's groups, whole ones only: over-sampling with abort of the rest, dynamic sampling with refill.

Problems are taken in the order of the run's cursor. A group that was aborted is carried: the next step asks for it
first, from the start or, with `rollout.partial_rollouts`, from its last tokens; version spans say which weights wrote
what. A group that has been carried through `rollout.max_carried_steps` steps is overdue and waited for, the oldest ones
first, so slow problems are trained on as often as quick ones, only later. A step carries at most the prompts that it
asks for beyond those it trains; so none is carried through more than max_carried_steps + max(0, ceil(over_sampling) -
2) steps. Where the method would plan a carried group otherwise by now, it is planned anew.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from egrc_mega.data.problems import ProblemSource
from egrc_mega.data.render import Renderer
from egrc_mega.errors import RolloutError
from egrc_mega.methods.method import Judge
from egrc_mega.observe.spans import span
from egrc_mega.rollout.environment import Environment
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.stream import Outcome, Refused, Stream
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.seeds import derive_seed
from egrc_mega.stages.state import Carried, Position
from egrc_mega.training.fates import ABORTED, OTHER_PLAN, OTHER_STAGE, RESUMED, Fates, Requeued
from egrc_mega.training.staleness import oldest_lag
from egrc_mega.training.turn import Turn
from egrc_mega.types import (
    Ask,
    Completion,
    Drawn,
    FinishReason,
    Group,
    Problem,
    RolloutRequest,
    Sampling,
)


@dataclass(slots=True, eq=False)
class OpenGroup:
    """A problem whose samples are under way."""

    place: int
    """The problem's number since the start of the run."""
    problem: Problem
    asks: Sequence[Ask]
    requests: Sequence[RolloutRequest]
    age: int = 0
    """Steps that have ended without it."""
    done: dict[str, Completion] = field(default_factory=dict)
    """Finished responses, by rid."""
    begun: dict[str, Completion] = field(default_factory=dict)
    """Responses that an earlier step began and aborted."""
    is_refused: bool = False

    @property
    def is_whole(self) -> bool:
        """Every sample is there."""
        return len(self.done) == len(self.requests)

    @property
    def drawn(self) -> list[Drawn]:
        """What was asked and what came back, of a whole group."""
        return [
            Drawn(problem=self.problem, ask=ask, request=request, completion=self.done[request.rid])
            for ask, request in zip(self.asks, self.requests, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class StepGroups:
    """A step's groups in the order of their problems."""

    groups: list[Group]
    position: Position
    """After this step."""
    counts: dict[str, int]
    """Fields of the step's record."""
    length_sampled: float | None = None
    """Mean length of every response that ended in the step, in dropped and carried groups too; None: none did."""
    fates: Fates | None = None
    """What has become of the problems; None: nobody knows, in a replay of an earlier version's rollouts."""


class Planner:
    """Turns a problem's number into requests: ids and seeds depend on the place in the run only."""

    def __init__(
        self, problems: ProblemSource, renderer: Renderer, run_seed: int, stop_token_ids: tuple[int, ...]
    ) -> None:
        self.problems, self.renderer = problems, renderer
        self.run_seed, self.stop_token_ids = run_seed, stop_token_ids

    def plan(self, place: int, number: int, turn: Turn, age: int = 0) -> OpenGroup:
        """The requests of one problem, the `number`-th of its step; carried problems have negative numbers."""
        name = f"step{turn.step:06d}-prompt{number:05d}"
        return self._planned(place, name, (turn.step, number), turn, age)

    def plan_alone(self, place: int, attempt: int, turn: Turn, age: int = 0) -> OpenGroup:
        """The requests of one problem where no step asks for it: its place and the stage decide on ids and seeds.

        `attempt` counts how often it was begun.
        """
        start = turn.step - turn.step_in_stage
        name = f"stage{start:06d}-problem{place:06d}-attempt{attempt:02d}"
        return self._planned(place, name, ("stage", start, place, attempt), turn, age)

    def _planned(self, place: int, name: str, key: tuple[int | str, ...], turn: Turn, age: int) -> OpenGroup:
        problem = self.problems.take(place)
        asks = turn.method.plan(problem, turn.view)
        requests = [
            RolloutRequest(
                rid=f"{name}-sample{n:04d}",
                prompt_id=f"problem{place}",
                prompt_ids=self.renderer.prompt_ids(problem, ask),
                forced_ids=self.renderer.forced_ids(ask),
                sampling=self._sampling(ask, turn),
                seed=derive_seed(self.run_seed, "rollout", *key, n),
            )
            for n, ask in enumerate(asks)
        ]
        return OpenGroup(place, problem, asks, requests, age)

    def is_current(self, group: OpenGroup, turn: Turn) -> bool:
        """Whether the method would still ask for the same."""
        return list(turn.method.plan(group.problem, turn.view)) == list(group.asks)

    def _sampling(self, ask: Ask, turn: Turn) -> Sampling:
        return Sampling(
            temperature=turn.stage.rollout.temperature,
            top_p=turn.stage.rollout.top_p,
            top_k=turn.stage.rollout.top_k,
            max_new_tokens=ask.max_new_tokens or turn.method.longest,
            stop_token_ids=self.stop_token_ids,
        )


@dataclass(frozen=True, slots=True)
class Means:
    """What sampling takes, in every mode: how much of it, the requests, and who answers, writes and judges."""

    section: RolloutSection
    planner: Planner
    fleet: Fleet
    environment: Environment | None
    judge: Judge

    def stream(self) -> Stream:
        """Requests that are sent and answered while the caller does other things."""
        return self.fleet.stream(self.environment)


class Collector:
    """Asks the fleet for groups and the graders for verdicts. One step at a time, from any thread."""

    def __init__(self, means: Means, num_refused: int = 0) -> None:
        """`num_refused`: prompts that the run has lost to refusals before."""
        self.means, self.num_refused = means, num_refused
        self.waiting: dict[int, OpenGroup] = {}
        """Groups that the last step left, by their place."""

    def collect(self, turn: Turn, position: Position) -> StepGroups:
        """The groups of a step.

        Raises:
            RolloutError: too many requests were lost or refused, or too few groups have a signal.
        """
        carried, requeued = self._carried(turn, position)
        with span("rollout"), self.means.stream() as stream:
            collection = _Collection(self, turn, position.cursor, stream)
            found = collection.run(carried, requeued)
        self.waiting = {group.place: group for group in collection.open}
        return found

    def _carried(self, turn: Turn, position: Position) -> tuple[list[OpenGroup], tuple[Requeued, ...]]:
        """The groups that an earlier step left, and which of them begin anew.

        They are planned anew after a restart, or where the plan has changed.
        """
        waiting, self.waiting = self.waiting, {}
        groups, requeued = [], []
        for number, carried in enumerate(position.carried):
            group = waiting.get(carried.place)
            reason = self._why_anew(group, turn)
            if group is None or reason in (OTHER_STAGE, OTHER_PLAN):
                group = self.means.planner.plan(carried.place, -1 - number, turn, carried.age)
            if reason:
                requeued.append(Requeued(place=carried.place, reason=reason))
            groups.append(group)
        return groups, tuple(requeued)

    def _why_anew(self, group: OpenGroup | None, turn: Turn) -> str | None:
        """Why nothing is left of what an earlier step had of a group; None: something is."""
        if turn.opens_stage:
            return OTHER_STAGE
        if group is None:
            return RESUMED
        if not self.means.planner.is_current(group, turn):
            return OTHER_PLAN
        return None if group.done or group.begun else ABORTED


class _Collection:
    """One step under way."""

    def __init__(self, collector: Collector, turn: Turn, cursor: int, stream: Stream) -> None:
        self.collector, self.turn, self.cursor, self.stream = collector, turn, cursor, stream
        self.section = collector.means.section
        self.drops = turn.stage.rollout.drop_groups != "never"
        self.wanted = self.section.prompts_per_step
        self.num_asked = 0
        self.due_age = self.section.max_carried_steps
        """Groups of this age or older have a place in the batch, and are waited for."""
        self.open: list[OpenGroup] = []
        """In the order of their problems, so the oldest are first."""
        self.group_of: dict[str, OpenGroup] = {}
        """By rid."""
        self.kept: list[tuple[int, Group]] = []
        self.dropped: list[int] = []
        self.refused: list[int] = []
        """Places, as `Fates` has them."""
        self.last_refusal = ""
        self.lengths: list[int] = []
        """Of every response that has ended, whatever becomes of its group."""
        self.counts = dict.fromkeys(
            ("sampled_groups", "groups_without_signal", "refused_groups", "aborted_requests", "carried_groups"), 0
        )

    def run(self, carried: list[OpenGroup], requeued: tuple[Requeued, ...]) -> StepGroups:
        """Ask, take, judge, until there are enough groups."""
        self.counts["requeued_groups"] = len(requeued)
        self.due_age = self._due_age(carried)
        self._send(carried)
        self._ask(math.ceil(self.wanted * self.section.over_sampling) - len(self.open))
        while True:
            self._judge_whole()
            missing = self.wanted - len(self.kept)
            if self.drops and missing:
                self._ask(math.ceil((missing - len(self.open)) * self.section.over_sampling))
            if not missing or not self.stream.num_open:
                break
            self._note(self.stream.take())
        self._note(self.stream.abort())
        self._require_enough(missing)
        self._leave_over()
        self.kept.sort(key=lambda pair: pair[0])
        left = tuple(Carried(place=group.place, age=group.age) for group in self.open)
        return StepGroups(
            groups=[group for _place, group in self.kept],
            position=Position(cursor=self.cursor, carried=left),
            counts=self.counts,
            length_sampled=fmean(self.lengths) if self.lengths else None,
            fates=Fates(
                trained=tuple(place for place, _group in self.kept),
                dropped=tuple(self.dropped),
                refused=tuple(self.refused),
                requeued=requeued,
            ),
        )

    def _due_age(self, carried: Sequence[OpenGroup]) -> int:
        """The age from which the step waits for a group.

        Without partial rollouts a carried group begins anew in every step. A step that waits for an overdue one anyway
        waits for all that are carried: they would be as far, be dropped once more, and cost the next step as much.
        """
        most = self.section.max_carried_steps
        if self.section.partial_rollouts or all(group.age < most for group in carried):
            return most
        return 1

    def _ask(self, count: int) -> None:
        """New problems; where groups are dropped no more than the limit allows."""
        if self.drops:
            count = min(count, math.floor(self.wanted * self.section.dynamic_sampling_limit) - self.num_asked)
        count = max(0, count)
        numbers = range(self.num_asked, self.num_asked + count)
        plan = self.collector.means.planner.plan
        self._send([plan(self.cursor + i, number, self.turn) for i, number in enumerate(numbers)])
        self.cursor += count
        self.num_asked += count

    def _send(self, groups: Sequence[OpenGroup]) -> None:
        """All at once: servers compute together what arrives together."""
        self.open += groups
        self.group_of |= {request.rid: group for group in groups for request in group.requests}
        self.counts["sampled_groups"] += len(groups)
        begun = {rid: completion for group in groups for rid, completion in group.begun.items()}
        self.stream.add([r for group in groups for r in group.requests if r.rid not in group.done], begun)

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
                self.lengths.append(len(outcome.output_ids))

    def _refuse(self, group: OpenGroup, refused: Refused) -> None:
        """The group is absent; a budget of its own says how many may be."""
        self.last_refusal = refused.reason
        if not group.is_refused:
            group.is_refused = True
            self.counts["refused_groups"] += 1
            self.refused.append(group.place)
            self.collector.num_refused += 1
        if self.collector.num_refused > self.section.max_refused:
            raise RolloutError(
                f"{refused.reason}; rollout.max_refused = {self.section.max_refused} prompts of a run is used up"
            )

    def _judge_whole(self) -> None:
        """Judge groups that are whole, as many as there are places for them, and keep those that teach something."""
        self.open = [group for group in self.open if not group.is_refused]
        while whole := self._next_whole():
            self.open = [group for group in self.open if group not in whole]
            with span("grade"):
                drawn = [one for group in whole for one in group.drawn]
                samples = self.collector.means.judge(drawn, self.turn.method.needs)
            for group in whole:
                own, samples = samples[: len(group.requests)], samples[len(group.requests) :]
                self._keep(group.place, Group(problem=group.problem, samples=tuple(own)))

    def _next_whole(self) -> list[OpenGroup]:
        """Whole groups that have a place in the batch. The oldest of those that are due have theirs reserved."""
        places = self.wanted - len(self.kept)
        due = [group for group in self.open if group.age >= self.due_age][:places]
        spare = places - len(due)
        others = [group for group in self.open if group.is_whole and group not in due][:spare]
        return [group for group in self.open if group.is_whole and (group in due or group in others)]

    def _keep(self, place: int, group: Group) -> None:
        if self.drops and not self.turn.method.keep(group, self.turn.view):
            self.counts["groups_without_signal"] += 1
            self.dropped.append(place)
        else:
            self.kept.append((place, group))

    def _require_enough(self, missing: int) -> None:
        if missing and self.drops:
            raise RolloutError(
                f"stages.{self.turn.stage.name}.rollout.drop_groups: {self.num_asked} prompts gave {len(self.kept)} of "
                f"{self.wanted} groups that teach something in step {self.turn.step + 1}; raise "
                f"rollout.dynamic_sampling_limit = {self.section.dynamic_sampling_limit:g}, take other problems, or "
                f"set it to never"
            )
        if not self.kept:
            raise RolloutError(
                f"servers refused every prompt of step {self.turn.step + 1}, the last one so: {self.last_refusal}"
            )

    def _leave_over(self) -> None:
        """What the next step asks for first; without tokens that are too old by then, or without any."""
        for group in self.open:
            group.age += 1
            for part in (group.done, group.begun):
                for rid, completion in list(part.items()):
                    is_fresh = oldest_lag([completion], self.turn.step + 1) <= self.section.max_staleness
                    if not (self.section.partial_rollouts and is_fresh and completion.sampled.any()):
                        del part[rid]
        self.counts["carried_groups"] = len(self.open)
