"""The groups between servers and trainer in asynchronous mode: which may be asked for, and which are trained next.

No thread, no server and no clock: whoever drives it sends what `admit` and `requeue` hand out, aborts what is
abandoned, tells `note` what came back, and takes a step's batch once it is there. With B groups a step, v the newest
weights that every server has, s the next step and m = `rollout.max_staleness`:

    admitted and neither trained, dropped nor refused  <=  (min(v + m + 1, end of the stage) - s) B

(the admission of AReaL, 2505.24298 section 5.1), so memory and disk are bounded, and at the end of a stage nothing is
left. A group whose oldest token may be from weights b has to be trained by step b + m. A batch is taken only when what
stays behind can still keep its terms, B groups a step, the earliest first: so a step waits where the bound demands it
and nowhere else, and long responses are trained on as often as short ones, only later. Whatever cannot keep its term
all the same is requeued: begun anew under the present weights.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.stream import Outcome, Refused
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.stages.state import Carried, Position
from egrc_mega.training.collection import OpenGroup, Planner, StepGroups
from egrc_mega.training.fates import OTHER_STAGE, RESUMED, TOO_OLD, Fates, Requeued
from egrc_mega.training.staleness import oldest_lag, version_number
from egrc_mega.training.turn import Turn
from egrc_mega.types import Completion, Group, Sample


@dataclass(slots=True, eq=False)
class Entry:
    """A group that was admitted and has no fate yet."""

    asked: OpenGroup
    oldest: int
    """Number of the oldest weights that its tokens may be from."""
    attempt: int = 0
    """How often it was begun before."""
    group: Group | None = None
    """Graded, and ready to be trained on; None while samples are under way."""

    @property
    def place(self) -> int:
        """The problem's number since the start of the run."""
        return self.asked.place


class Pool:
    """Of one stage, from one of its steps on."""

    def __init__(
        self, section: RolloutSection, planner: Planner, turn: Turn, position: Position, version: int, refused: int = 0
    ) -> None:
        """`turn` is the first to be taken, `version` the number of the weights that every server has, and `refused`
        how many prompts the run has lost to refusals before."""
        self.section, self.planner, self.turn, self.version = section, planner, turn, version
        self.num_refused = refused
        self.next_step = turn.step
        self.stage_end = turn.step - turn.step_in_stage + turn.stage.steps
        self.drops = turn.stage.rollout.drop_groups != "never"
        self.cursor = position.cursor
        self.waiting = deque(position.carried)
        """Places that an earlier stage or process has left, which are asked for before all others."""
        self.entries: dict[int, Entry] = {}
        """By place."""
        self._entry_of: dict[str, Entry] = {}
        """By rid, of the requests under way."""
        self._abandoned: list[str] = []
        self._may_be_late = False
        """A group has come whose tokens are older than what its server was known to have when it was asked."""
        reason = OTHER_STAGE if turn.opens_stage else RESUMED
        self._note_step()
        self._requeued += [Requeued(place=carried.place, reason=reason) for carried in position.carried]

    def _note_step(self) -> None:
        """What is told of the step that is being filled begins here."""
        self._requeued: list[Requeued] = []
        self._dropped: list[int] = []
        self._refused: list[int] = []
        self._lengths: list[int] = []
        self._num_admitted = self._num_aborted = 0

    @property
    def size(self) -> int:
        """Groups of a batch."""
        return self.section.prompts_per_step

    @property
    def room(self) -> int:
        """Groups that may be admitted now."""
        last = min(self.version + self.section.max_staleness + 1, self.stage_end)
        # replacements of dropped groups have a limit: beyond it their places stay empty
        beyond = len(self._dropped) - math.floor(self.size * (self.section.dynamic_sampling_limit - 1))
        return (last - self.next_step) * self.size - len(self.entries) - max(0, beyond)

    def admit(self) -> list[OpenGroup]:
        """Groups to send now: first those that were left over, then new problems in the order of the cursor."""
        return [self._begin(self._next()) for _ in range(self.room)]

    def _next(self) -> Carried:
        if self.waiting:
            return self.waiting.popleft()
        self.cursor += 1
        return Carried(place=self.cursor - 1, age=0)

    def _begin(self, carried: Carried, attempt: int = 0) -> OpenGroup:
        asked = self.planner.plan_alone(carried.place, attempt, self.turn, carried.age)
        self._num_admitted += 1
        entry = self.entries[carried.place] = Entry(asked, self.version, attempt)
        self._entry_of |= {request.rid: entry for request in asked.requests}
        return asked

    def note(self, outcomes: Sequence[Outcome]) -> list[Entry]:
        """Give every outcome to its group; the groups that are whole by now, to be graded.

        Raises:
            RolloutError: more prompts were refused than a run may lose.
        """
        whole = []
        for outcome in outcomes:
            rid = outcome.request.rid if isinstance(outcome, Refused) else outcome.rid
            entry = self._entry_of.pop(rid, None)
            if entry is None:  # of a group that was refused or requeued meanwhile
                continue
            if isinstance(outcome, Refused):
                self._refuse(entry, outcome)
            elif self._is_whole_with(entry, outcome):
                whole.append(entry)
        return whole

    def _is_whole_with(self, entry: Entry, completion: Completion) -> bool:
        entry.asked.done[completion.rid] = completion
        self._lengths.append(len(completion.output_ids))
        if entry.asked.is_whole:
            completions = list(entry.asked.done.values())
            oldest = self.next_step - oldest_lag(completions, self.next_step)
            self._may_be_late |= oldest < entry.oldest
            entry.oldest = oldest
        return entry.asked.is_whole

    def _refuse(self, entry: Entry, refused: Refused) -> None:
        """The place stays empty and another problem takes it; a budget of its own says how often."""
        self._leave(entry)
        self._refused.append(entry.place)
        self.num_refused += 1
        if self.num_refused > self.section.max_refused:
            raise RolloutError(
                f"{refused.reason}; rollout.max_refused = {self.section.max_refused} prompts of a run is used up"
            )

    def keep(self, entry: Entry, samples: Sequence[Sample]) -> None:
        """A whole group is graded: it is ready, or it is dropped where it teaches nothing."""
        group = Group(problem=entry.asked.problem, samples=tuple(samples))
        if self.drops and not self.turn.method.keep(group, self.turn.view):
            self._leave(entry)
            self._dropped.append(entry.place)
        else:
            entry.group = group

    def _leave(self, entry: Entry) -> None:
        """It is no longer waited for, and nobody wants what is still under way of it."""
        del self.entries[entry.place]
        rids = [request.rid for request in entry.asked.requests if request.rid in self._entry_of]
        for rid in rids:
            del self._entry_of[rid]
        self._abandoned += rids
        self._num_aborted += len(rids)

    def requeue(self) -> list[OpenGroup]:
        """Groups that cannot be trained within the bound, begun anew; to be sent."""
        if not self._may_be_late:
            return []
        self._may_be_late = False
        begun = []
        for entry in self._late(self.entries.values(), self.next_step):
            self._leave(entry)
            self._requeued.append(Requeued(place=entry.place, reason=TOO_OLD))
            begun.append(self._begin(Carried(place=entry.place, age=entry.asked.age), entry.attempt + 1))
        return begun

    def take_abandoned(self) -> list[str]:
        """Requests to be aborted: what was left of groups that were refused or begun anew since the last call."""
        rids, self._abandoned = self._abandoned, []
        return rids

    def _late(self, entries: Iterable[Entry], step: int) -> list[Entry]:
        """Those that miss their terms when from `step` on every step trains B of the entries, the earliest terms first.

        None that is late takes a step's place from the others.
        """
        late: list[Entry] = []
        num_placed = 0
        for entry in sorted(entries, key=self._term):
            if self._term(entry)[0] < step + num_placed // self.size:
                late.append(entry)
            else:
                num_placed += 1
        return late

    def _term(self, entry: Entry) -> tuple[int, int]:
        """The last step that may train on it; of equals the older problem comes first."""
        return entry.oldest + self.section.max_staleness, entry.place

    def take(self) -> StepGroups | None:
        """The batch of the next step; None: it has to be waited for.

        Raises:
            RolloutError: it will never be there, for too few groups teach something.
        """
        ready = [entry for entry in self.entries.values() if entry.group is not None]
        if len(ready) < self.size:
            self._require_possible(len(ready))
            return None
        chosen = sorted(ready, key=self._term)[: self.size]
        places = {entry.place for entry in chosen}
        if self._late((entry for place, entry in self.entries.items() if place not in places), self.next_step + 1):
            return None
        for entry in chosen:
            self._leave(entry)
        chosen.sort(key=lambda entry: entry.place)
        return self._step_groups(chosen)

    def _require_possible(self, num_ready: int) -> None:
        is_waiting = len(self.entries) > num_ready or self.room > 0 or self.version < self.next_step
        if not is_waiting:
            raise RolloutError(
                f"stages.{self.turn.stage.name}.rollout.drop_groups: {len(self._dropped)} groups taught nothing, which "
                f"leaves {num_ready} of {self.size} for step {self.next_step + 1}; raise "
                f"rollout.dynamic_sampling_limit = {self.section.dynamic_sampling_limit:g}, take other problems, or "
                f"set it to never"
            )

    def _step_groups(self, chosen: Sequence[Entry]) -> StepGroups:
        groups = [entry.group for entry in chosen if entry.group is not None]
        self._require_fresh(groups)
        for entry in self.entries.values():
            entry.asked.age += 1
        self.waiting = deque(Carried(place=left.place, age=left.age + 1) for left in self.waiting)
        open_ones = [Carried(place=entry.place, age=entry.asked.age) for entry in self.entries.values()]
        carried = tuple(sorted([*open_ones, *self.waiting], key=lambda one: one.place))
        found = StepGroups(
            groups=groups,
            position=Position(cursor=self.cursor, carried=carried),
            counts=self._counts(len(carried)),
            length_sampled=fmean(self._lengths) if self._lengths else None,
            fates=Fates(
                trained=tuple(entry.place for entry in chosen),
                dropped=tuple(self._dropped),
                refused=tuple(self._refused),
                requeued=tuple(self._requeued),
            ),
        )
        self._note_step()
        self.next_step += 1
        return found

    def _counts(self, num_carried: int) -> dict[str, int]:
        return {
            "sampled_groups": self._num_admitted,
            "groups_without_signal": len(self._dropped),
            "refused_groups": len(self._refused),
            "aborted_requests": self._num_aborted,
            "carried_groups": num_carried,
            "requeued_groups": len(self._requeued),
        }

    def _require_fresh(self, groups: Sequence[Group]) -> None:
        """The one promise that nothing may break: it ends the run, whoever is to blame."""
        for group in groups:
            lag = oldest_lag([sample.completion for sample in group.samples], self.next_step)
            if lag > self.section.max_staleness:
                raise RuntimeError(
                    f"group of problem {group.problem.key} has tokens {lag} versions old in step {self.next_step + 1}, "
                    f"beyond rollout.max_staleness = {self.section.max_staleness}"
                )

    def move_on(self, turn: Turn) -> None:
        """Plan and judge from here on as this turn's method would; it may be the one after the next to be taken."""
        self.turn = turn

    def note_version(self, name: str) -> None:
        """Every server has these weights, or newer ones: what is begun from here on has no older token."""
        self.version = max(self.version, version_number(name))
