"""How a step's time goes down with the number of GPUs, and why it stops: the law, the curve, and its figure.

The batch stays as it is. What all GPUs share goes down as 1 / N; what none of them can take from another stays:

    T(N) = floor + work / N

`floor` is the longest response alone on its server (its decoding steps, each of which reads the weights once) with the
weights' way to the servers; `work` is all the rest, taken from the model's time at the fewest GPUs.
"""

from dataclasses import dataclass

from egrc_mega.plan.constants import CONSTANTS
from egrc_mega.plan.generation import Server, batch_seconds
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.plan import Plan, make_plan
from egrc_mega.plan.split import Split
from egrc_mega.plan.workload import StageWork

MOST_GPUS = 1024


@dataclass(frozen=True, slots=True)
class Law:
    """The two numbers of the law for one stage of a recipe."""

    floor: float
    """Seconds that no number of GPUs takes away."""
    work: float
    """GPU seconds that they share."""

    def seconds(self, num_gpus: int) -> float:
        """Of a step on so many GPUs."""
        return self.floor + self.work / num_gpus


@dataclass(frozen=True, slots=True)
class Point:
    """A step on so many GPUs, half of which serve."""

    num_gpus: int
    rollout: float
    training: float
    total: float


def curve(plan: Plan, stage: StageWork) -> list[Point]:
    """The model's steps from the plan's number of GPUs to `MOST_GPUS`, in doublings."""
    points, num_gpus = [], plan.split.num_gpus
    while num_gpus <= MOST_GPUS:
        split = Split(num_gpus, num_gpus // 2, num_gpus - num_gpus // 2, False, "half of them")
        found = make_plan(plan.config, plan.model, plan.gpu, split, [stage])
        if found.stages:
            time = found.stages[0].time
            points.append(Point(num_gpus, time.rollout, time.training.total, time.total))
        num_gpus *= 2
    return points


def law(plan: Plan, stage: StageWork, points: list[Point]) -> Law:
    """The law through the first point, its floor reckoned and not fitted."""
    assert plan.memory, "a plan without memory has no servers"
    server = Server(plan.model, plan.gpu, plan.config.rollout.tensor_parallel_size, plan.memory.server.kv_tokens)
    longest = Lengths(0.999 * stage.longest, stage.longest)
    floor = batch_seconds(server, 1, 1, longest, stage.work.prompt_tokens, CONSTANTS)
    first = points[0]
    floor += first.total - first.rollout - first.training
    return Law(floor, (first.total - floor) * first.num_gpus)
