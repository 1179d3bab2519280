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


NIM_STEP_S = {1: 4.63, 5: 4.58, 25: 5.19, 50: 5.91, 100: 7.57, 150: 9.81, 200: 12.65, 250: 16.14}
"""Requests at once -> milliseconds between tokens of Llama-3.1-8B-Instruct, NIM 1.8.0, first table of NVIDIA's page
docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance; prompts that enter meanwhile are in it."""


@dataclass(frozen=True, slots=True)
class TabledLaw:
    """A published curve of decoding, straight between its points and beyond the last; memory is the other law's."""

    other: PlannedLaw
    kv_token_s: float = 0.0

    @property
    def kv_tokens(self) -> float:
        """Tokens that fit into the other server."""
        return self.other.kv_tokens

    def dense_s(self, num_running: int) -> float:
        """The keys and values that the measured requests had are in it."""
        points = list(NIM_STEP_S.items())
        upper = next((place for place, point in enumerate(points) if point[0] >= num_running), len(points) - 1)
        (low, before), (high, after) = points[max(0, upper - 1)], points[max(1, upper)]
        return (before + (after - before) * (num_running - low) / (high - low)) / 1000

    def prefill_s(self, num_tokens: float) -> float:
        """As long as the other server takes."""
        return self.other.prefill_s(num_tokens)
