"""Who trains on what: samples to ranks by cost, then to micro-batches by tokens. Pure functions of the lengths.

Ranks are balanced with the largest differencing method of Karmarkar and Karp (1982) on a cost that counts attention's
square; then each rank packs its samples, longest first into the emptiest micro-batch.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from egrc_mega.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Load:
    """Indices of samples that share a micro-batch; a filler's outputs are ignored and its weights are zero."""

    indices: tuple[int, ...]
    is_filler: bool = False


def plan_loads(
    num_tokens: Sequence[int], costs: Sequence[float], budget: int, num_ranks: int, multiple: int = 1
) -> list[list[Load]]:
    """The micro-batches of every rank: as many on each, none empty, none above the budget of tokens.

    Args:
        num_tokens: of each sample.
        costs: of each sample, in any unit.
        budget: tokens in a micro-batch.
        multiple: of which the number of micro-batches is one.

    Raises:
        PolicyError: a sample is longer than the budget.
    """
    assert num_tokens, "nothing to pack"
    longest = max(range(len(num_tokens)), key=num_tokens.__getitem__)
    if num_tokens[longest] > budget:
        raise PolicyError(
            f"sample {longest} of {num_tokens[longest]} tokens exceeds policy.max_tokens_per_micro_batch = {budget}: "
            f"raise it, or lower the stage's max_new_tokens"
        )
    shares = partition(costs, num_ranks)
    fewest = max(1, -(-max(sum(num_tokens[i] for i in share) for share in shares) // budget))
    per_rank = fewest + -fewest % multiple
    while (packed := _pack_all(shares, num_tokens, budget, per_rank)) is None:
        per_rank += multiple
    shortest = min(range(len(num_tokens)), key=num_tokens.__getitem__)
    filler = Load((shortest,), is_filler=True)
    return [[Load(tuple(sorted(indices))) if indices else filler for indices in loads] for loads in packed]


def partition(costs: Sequence[float], num_parts: int) -> list[list[int]]:
    """Indices in `num_parts` parts of nearly equal cost; every part has one where there are enough."""
    # each entry is a partition of its own; the two that are most uneven are merged, heavy onto light
    tie = count()
    heap: list[tuple[float, int, list[tuple[float, list[int]]]]] = []
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        parts = [(costs[index], [index])] + [(0.0, []) for _ in range(num_parts - 1)]
        heap.append((-costs[index], next(tie), parts))
    heapq.heapify(heap)
    while len(heap) > 1:
        first, second = heapq.heappop(heap)[2], heapq.heappop(heap)[2]
        merged = [(a + b, x + y) for (a, x), (b, y) in zip(first, reversed(second), strict=True)]
        merged.sort(key=lambda part: -part[0])
        heapq.heappush(heap, (merged[-1][0] - merged[0][0], next(tie), merged))
    return [indices for _cost, indices in heap[0][2]]


def _pack_all(
    shares: Sequence[Sequence[int]], num_tokens: Sequence[int], budget: int, num_loads: int
) -> list[list[list[int]]] | None:
    packed = []
    for share in shares:
        loads = _pack(share, num_tokens, budget, num_loads)
        if loads is None:
            return None
        packed.append(loads)
    return packed


def _pack(share: Sequence[int], num_tokens: Sequence[int], budget: int, num_loads: int) -> list[list[int]] | None:
    """Longest first into the emptiest load; None when the budget is exceeded."""
    loads: list[list[int]] = [[] for _ in range(num_loads)]
    filled = [(0, i) for i in range(num_loads)]
    for index in sorted(share, key=lambda i: (-num_tokens[i], i)):
        tokens, emptiest = filled[0]
        if tokens + num_tokens[index] > budget:
            return None
        loads[emptiest].append(index)
        heapq.heapreplace(filled, (tokens + num_tokens[index], emptiest))
    return loads
