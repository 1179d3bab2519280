"""The buffers in which megatron-core's DDP lays out weights and gradients, and who owns which part of them.

Follows `megatron.core.distributed.param_and_grad_buffer` and `distributed_data_parallel` of megatron-core 0.16 number
by number: `tests/plan/test_states.py` compares with the buffers that it makes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

ALIGNED_PARAMETER, ALIGNED_BUCKET = 64, 128
"""Elements: where a parameter begins and a bucket ends with the distributed optimizer."""
LEAST_BUCKET, BUCKET_PER_RANK = 40_000_000, 1_000_000
"""Elements of a bucket: at least so many, and so many for each data-parallel rank."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of one rank."""

    size: int
    """Elements."""
    is_expert: bool = False
    """Lies in a buffer of its own kind, for experts have fewer replicas."""
    is_shared: bool = False
    """An embedding that the first and the last pipeline stage both have: it has a bucket of its own."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A part of a buffer that is reduced at once."""

    start: int
    end: int


@dataclass(frozen=True)
class Buffer:
    """Parameters one after the other, with the gaps that alignment leaves."""

    places: tuple[tuple[int, int], ...]
    """Start and end of each parameter."""
    buckets: tuple[Bucket, ...]
    num_replicas: int

    @property
    def size(self) -> int:
        """Elements with the gaps between them."""
        return self.buckets[-1].end if self.buckets else 0

    @property
    def parameters(self) -> int:
        """Elements without the gaps."""
        return sum(end - start for start, end in self.places)

    @cached_property
    def owned(self) -> tuple[int, ...]:
        """For each data-parallel rank: elements whose optimizer state is its own, in its equal part of every bucket.

        Gaps belong to nobody, so the parts differ a little.
        """
        totals, places = [0] * self.num_replicas, iter(self.places)
        start, end = next(places)
        for bucket in self.buckets:
            share = (bucket.end - bucket.start) // self.num_replicas
            while start < bucket.end:
                for rank in range((start - bucket.start) // share, (end - 1 - bucket.start) // share + 1):
                    first = bucket.start + rank * share
                    totals[rank] += min(end, first + share) - max(start, first)
                start, end = next(places, (self.size, self.size))
        return tuple(totals)


def bucket_size(num_replicas: int, *, in_buckets: bool) -> float:
    """Elements after which a bucket is closed; infinite where the buffer is one bucket."""
    return max(LEAST_BUCKET, BUCKET_PER_RANK * num_replicas) if in_buckets else math.inf


def lay_out(parameters: Sequence[Parameter], num_replicas: int, most: float, *, is_sharded: bool) -> Buffer:
    """The buffer of parameters, given in the module's order; the last one comes first, as gradients do.

    Args:
        num_replicas: data-parallel ranks that share the buffer.
        most: elements of a bucket, see `bucket_size`.
        is_sharded: the distributed optimizer shares the state, and needs everything aligned.
    """
    places: list[tuple[int, int]] = []
    buckets: list[Bucket] = []
    begin, position, is_empty = 0, 0, True

    def close(end: int) -> int:
        padded = _padded(end, math.lcm(num_replicas, ALIGNED_BUCKET)) if is_sharded else end
        buckets.append(Bucket(begin, padded))
        return padded

    for parameter in reversed(parameters):
        alone = parameter.is_shared and is_sharded
        position = _padded(position, ALIGNED_PARAMETER) if is_sharded else position
        if alone and not is_empty:
            begin = position = close(position)
        end = position + parameter.size
        places.append((position, end))
        is_empty = end - begin >= most or alone
        if is_empty:
            end = begin = close(end)
        position = end
    if not is_empty:
        close(position)
    return Buffer(tuple(places), tuple(buckets), num_replicas)


def _padded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
