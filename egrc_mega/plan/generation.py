"""How long servers take for a batch of responses: decoding steps, each as long as the bytes and products in it.

A step reads the weights once and the keys and values of everything that runs. Requests enter as memory for keys and
values allows, and a server is done when its last response is: the tail is part of the time.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from egrc_mega.plan.constants import Constants
from egrc_mega.plan.gpus import Gpu
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.model_facts import Model

Floats = NDArray[np.float64]

STRIDE = 32
"""Decoding steps that are reckoned at once, of which a batch has some hundreds at most."""
MOST_STRIDES = 256


@dataclass(frozen=True, slots=True)
class Server:
    """One server: the GPUs that share a model."""

    model: Model
    gpu: Gpu
    tensor_parallel_size: int
    kv_tokens: int
    """Tokens whose keys and values fit into its memory."""


def batch_seconds(
    server: Server, num_responses: int, num_servers: int, lengths: Lengths, prompt_tokens: int, constants: Constants
) -> float:
    """Seconds until a batch is answered: until the server is done that has the longest response of all.

    Args:
        num_responses: of all servers, which have equally many.
        prompt_tokens: of each prompt. Samples of one prompt share its keys and values; they are counted for each.
    """
    own = -(-num_responses // num_servers)
    # cache that nobody would use changes nothing, and a search asks the same again and again
    enough = own * (lengths.cap + 1 + prompt_tokens)
    server = replace(server, kv_tokens=min(server.kv_tokens, enough))
    return _batch_seconds(server, num_responses, num_servers, lengths, prompt_tokens, constants)


@lru_cache(maxsize=4096)
def _batch_seconds(
    server: Server, num_responses: int, num_servers: int, lengths: Lengths, prompt_tokens: int, constants: Constants
) -> float:
    costs = StepCosts(server, constants)
    waiting = _wanted(num_responses, num_servers, lengths)
    stride = max(STRIDE, lengths.cap // MOST_STRIDES)
    seconds = costs.prefill(len(waiting) * prompt_tokens)
    running, done = np.zeros(0), np.zeros(0)
    while len(waiting) or len(running):
        count = _number_that_fits(server, waiting, running, prompt_tokens)
        running, waiting = np.concatenate([running, waiting[:count]]), waiting[count:]
        done = np.concatenate([done, np.zeros(count)])
        contexts = float(done.sum()) + len(done) * (prompt_tokens + stride / 2)
        # the last stride ends with its last response, so that the tail is not rounded up
        steps = stride if len(waiting) else min(stride, int(np.ceil((running - done).max())))
        seconds += steps * costs.decode(len(running), contexts)
        done = done + steps
        goes_on = done < running
        running, done = running[goes_on], done[goes_on]
    return seconds


def _wanted(num_responses: int, num_servers: int, lengths: Lengths) -> Floats:
    """Lengths of the responses of the server that has the longest of all, in the order in which they come."""
    own = lengths.quantiles(-(-num_responses // num_servers))
    own[-1] = lengths.quantiles(num_responses)[-1]
    return np.random.default_rng(0).permutation(own) + 1


def _number_that_fits(server: Server, waiting: Floats, running: Floats, prompt_tokens: int) -> int:
    """How many may enter when every running response grows to its end; one always runs."""
    free = server.kv_tokens - float(running.sum()) - len(running) * prompt_tokens
    count = int(np.searchsorted(np.cumsum(waiting + prompt_tokens), free, side="right"))
    return count if count or len(running) else min(1, len(waiting))


class StepCosts:
    """Seconds of one forward of a server."""

    def __init__(self, server: Server, constants: Constants) -> None:
        self.server, self.constants = server, constants
        gpu, tensor = server.gpu, server.tensor_parallel_size
        self.flops = server.model.flops
        self.rate = gpu.bf16_flops * constants.flops_share * tensor
        self.memory_rate = gpu.memory_bytes_per_s * constants.bandwidth_share
        self.weights = server.model.served_bytes(tensor)
        self.experts = server.model.served_bytes(tensor, only_experts=True)
        self.kv = server.model.kv_bytes_per_token(tensor)

    def decode(self, num_running: int, contexts: float) -> float:
        """One token more for each that runs; `contexts` tokens have keys and values."""
        weights = self.weights - self.experts * (1 - self._touched(num_running))
        # the shared loads of weights and the products of a step overlap; keys and values are read by attention alone
        products = num_running * (self.flops.per_token + self.flops.per_row) / self.rate
        dense = max(weights / self.memory_rate, products)
        attention = contexts * self.kv / self.memory_rate
        return dense + attention + self._reduce(num_running) + self.constants.decode_overhead_s

    def prefill(self, num_tokens: float) -> float:
        """Prompts are limited by products."""
        return num_tokens * self.flops.per_token / self.rate

    def _touched(self, num_tokens: int) -> float:
        """Share of the experts that any of the tokens goes to."""
        number = self.server.model.architecture.num_experts
        if not number:
            return 1.0
        chosen = int(self.server.model.architecture.transformer_fields["moe_router_topk"])
        return 1 - float((1 - chosen / number) ** num_tokens)

    def _reduce(self, num_running: int) -> float:
        """Two sums over the server's GPUs in every layer."""
        size, architecture = self.server.tensor_parallel_size, self.server.model.architecture
        if size == 1:
            return 0.0
        gpu = self.server.gpu
        link = gpu.link_bytes_per_s if size <= gpu.gpus_per_node else gpu.network_bytes_per_s
        moved = 2 * architecture.num_layers * num_running * architecture.hidden_size * 2 * 2 * (size - 1) / size
        return moved / (link * self.constants.bandwidth_share)
