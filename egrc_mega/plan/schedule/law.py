"""How fast servers decode, from the time model of `egrc plan`: its constants are fitted on published whole steps."""

from dataclasses import dataclass
from functools import cache

from egrc_mega.plan.constants import CONSTANTS, Constants
from egrc_mega.plan.generation import Server, StepCosts
from egrc_mega.plan.gpus import Gpu
from egrc_mega.plan.model_facts import Model
from egrc_mega.plan.serving import DEFAULT_STATIC


@dataclass(frozen=True, slots=True)
class PlannedLaw:
    """A server of the planner's; see `plan.generation`."""

    costs: StepCosts
    kv_tokens: float
    kv_token_s: float

    def dense_s(self, num_running: int) -> float:
        """Weights read once, products of all that runs, sums over its GPUs, launches."""
        return _dense_s(self.costs, num_running)

    def prefill_s(self, num_tokens: float) -> float:
        """Seconds of the products, which limit it."""
        return self.costs.prefill(num_tokens)


@cache
def _dense_s(costs: StepCosts, num_running: int) -> float:
    return costs.decode(num_running, 0.0)


def planned_law(model: Model, gpu: Gpu, tensor_parallel_size: int = 1, constants: Constants = CONSTANTS) -> PlannedLaw:
    """The law of a server of so many GPUs, which keeps the usual share of their memory for weights and cache."""
    kv_bytes = model.kv_bytes_per_token(tensor_parallel_size)
    cache_bytes = DEFAULT_STATIC * gpu.memory_bytes - model.served_bytes(tensor_parallel_size)
    server = Server(model, gpu, tensor_parallel_size, int(cache_bytes / kv_bytes))
    costs = StepCosts(server, constants)
    return PlannedLaw(costs, server.kv_tokens, costs.kv / costs.memory_rate)
