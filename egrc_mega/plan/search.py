"""Looks for the best layouts, and for the nearest one that works."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from egrc_mega.config.config import Config
from egrc_mega.plan.activations import Recompute
from egrc_mega.plan.choice import Choice
from egrc_mega.plan.gpus import Gpu
from egrc_mega.plan.model_facts import Model
from egrc_mega.plan.plan import Plan, make_plan
from egrc_mega.plan.split import Split
from egrc_mega.plan.workload import StageWork

MOST_PIPELINE, MOST_CONTEXT = 8, 4
LONG_TOKENS = 16384
"""From such responses on more context-parallel ranks are worth a look."""
AS_GOOD = 0.02
"""Times this close to each other are as good, as far as anybody can know: what changes less stands first."""
BUDGET_ROUND = 1024
MOST_GPUS = 1024
PARTS = 8
"""Servers are tried on whole eighths of the GPUs."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout that was looked at."""

    choice: Choice
    plan: Plan


@dataclass(frozen=True, slots=True)
class Search:
    """All layouts of a configuration on so many GPUs of a kind."""

    config: Config
    model: Model
    gpu: Gpu
    split: Split
    works: list[StageWork]

    @property
    def own(self) -> Choice:
        """What the configuration says."""
        return Choice.of(self.config, self.split)

    def ranked(self) -> tuple[list[Candidate], int]:
        """What works, the shortest recipe first; and how many layouts were looked at."""
        tried = [self._tried(choice) for choice in self.choices(self.split.num_gpus)]
        works = [candidate for candidate in tried if not candidate.plan.problems]
        works.sort(key=self._place)
        return [each for each in works if not _offloads_for_nothing(each, works)], len(tried)

    def _place(self, candidate: Candidate) -> tuple[float, float, float]:
        hours = candidate.plan.hours
        return (round(math.log(hours) / AS_GOOD), candidate.choice.distance(self.own), hours)

    def nearest(self) -> Candidate | None:
        """The layout that works and changes least: on as many GPUs, or on the fewest that will do."""
        num_gpus = self.split.num_gpus
        while num_gpus <= MOST_GPUS:
            for choice in sorted(self.choices(num_gpus), key=lambda choice: choice.distance(self.own)):
                candidate = self._tried(choice)
                if not candidate.plan.problems:
                    return candidate
            num_gpus *= 2
        return None

    def choices(self, num_gpus: int) -> Iterator[Choice]:
        """Every combination that is worth a look."""
        own, longest = self.own, self._longest
        budget = max(own.budget, -(-longest // BUDGET_ROUND) * BUDGET_ROUND)
        contexts = _doublings(MOST_CONTEXT if longest >= LONG_TOKENS else 1, own.context)
        # selective recomputation saves next to nothing beside flash attention
        recompute: list[Recompute] = ["none", "full"] if own.recompute == "full" else [own.recompute, "full"]
        sizes = product(
            _tensor_sizes(self.model, self.gpu, own.tensor),
            _doublings(MOST_PIPELINE, own.pipeline),
            contexts,
            recompute,
            (False, True),
            self._rollout_gpus(num_gpus),
            _tensor_sizes(self.model, self.gpu, own.server_tensor),
        )
        for tensor, pipeline, context, how, offloads, rollout, server in sizes:
            choice = Choice(num_gpus, tensor, pipeline, context, how, offloads, rollout, server, budget)
            if _deals_out(choice):
                yield choice

    def _rollout_gpus(self, num_gpus: int) -> list[int | None]:
        eighths = {num_gpus * part // PARTS for part in range(1, PARTS)}
        own = set() if self.own.rollout_gpus is None else {self.own.rollout_gpus}
        return [None, *sorted(size for size in eighths | own if 0 < size < num_gpus)]

    @property
    def _longest(self) -> int:
        return max(each.longest + each.work.prompt_tokens for each in self.works)

    def _tried(self, choice: Choice) -> Candidate:
        """The plan of a choice; where its token budget is too large, with the largest that fits."""
        plan = make_plan(choice.applied(self.config), self.model, self.gpu, choice.split, self.works)
        if plan.problems and plan.memory and choice.budget > plan.memory.fitting_budget >= self._longest:
            choice = replace(choice, budget=plan.memory.fitting_budget)
            plan = make_plan(choice.applied(self.config), self.model, self.gpu, choice.split, self.works)
        return Candidate(choice, plan)


def best_of_splits(works: list[Candidate]) -> list[Candidate]:
    """Of ranked layouts the first of every split: colocated, then by the number of servers' GPUs."""
    found: dict[int, Candidate] = {}
    for candidate in works:
        found.setdefault(candidate.choice.rollout_gpus or 0, candidate)
    return [found[size] for size in sorted(found)]


def _offloads_for_nothing(candidate: Candidate, works: list[Candidate]) -> bool:
    """Whether a layout keeps the optimizer on the host though the same works as fast without."""
    choice = candidate.choice
    if not choice.offloads_optimizer:
        return False
    same = replace(choice, offloads_optimizer=False)
    return any(replace(other.choice, budget=choice.budget) == same for other in works)


def _deals_out(choice: Choice) -> bool:
    """Whether trainer and servers have whole numbers of what they need."""
    split = choice.split
    model = choice.tensor * choice.pipeline * choice.context
    return split.trainer % model == 0 and split.rollout % choice.server_tensor == 0


def _tensor_sizes(model: Model, gpu: Gpu, own: int) -> list[int]:
    """Within a node, and dividing the heads."""
    heads = model.architecture.num_heads
    return [size for size in _doublings(min(8, gpu.gpus_per_node), own) if heads % size == 0]


def _doublings(most: int, own: int) -> list[int]:
    sizes, size = {own}, 1
    while size <= most:
        sizes.add(size)
        size *= 2
    return sorted(sizes)
