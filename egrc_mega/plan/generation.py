"""How long servers take for a batch of responses: decoding steps, each as long as the bytes and products in it.

A step reads the weights once and the keys and values of everything that runs. Requests enter as memory for keys and
values allows, and a server is done when its last response is: the tail is part of the time.
"""

from dataclasses import dataclass

import numpy as np

from egrc_mega.plan.constants import Constants
from egrc_mega.plan.gpus import Gpu
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.model_facts import Model

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
    server: Server, num_requests: int, lengths: Lengths, prompt_tokens: int, constants: Constants
) -> float:
    """Seconds until a server has answered its share of a batch.

    Args:
        num_requests: of this server.
        prompt_tokens: of each prompt. Samples of one prompt share its keys and values; they are counted for each.
    """
    wanted = np.random.default_rng(0).permutation(lengths.quantiles(num_requests)) + 1
    stride = max(STRIDE, int(lengths.cap / MOST_STRIDES))
    costs = _StepCosts(server, constants)
    seconds = costs.prefill(num_requests * prompt_tokens)
    done = np.zeros(0)
    running = np.zeros(0)
    waiting = 0
    while waiting < num_requests or len(running):
        waiting, running, done = _admit(server, wanted, waiting, running, done, prompt_tokens)
        contexts = float(done.sum()) + len(done) * (prompt_tokens + stride / 2)
        # a stride ends with the first that is done where few are left, so that the tail is not rounded up
        steps = min(stride, int(np.ceil((running - done).max()))) if waiting >= num_requests else stride
        seconds += steps * costs.decode(len(running), contexts)
        done = done + steps
        keep = done < running
        running, done = running[keep], done[keep]
    return seconds


def _admit(
    server: Server,
    wanted: np.ndarray[tuple[int], np.dtype[np.float64]],
    waiting: int,
    running: np.ndarray[tuple[int], np.dtype[np.float64]],
    done: np.ndarray[tuple[int], np.dtype[np.float64]],
    prompt_tokens: int,
) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Let in as many as fit when every running response grows to its end; one always runs."""
    free = server.kv_tokens - float(running.sum()) - len(running) * prompt_tokens
    sizes = np.cumsum(wanted[waiting:] + prompt_tokens)
    count = int(np.searchsorted(sizes, free, side="right"))
    if not count and not len(running):
        count = min(1, len(sizes))
    entering = wanted[waiting : waiting + count]
    return waiting + count, np.concatenate([running, entering]), np.concatenate([done, np.zeros(count)])


class _StepCosts:
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

    def prefill(self, num_tokens: int) -> float:
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
