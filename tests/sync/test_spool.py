"""A version in the spool: readers get what was put in, in order, whatever came before and wherever it is cut."""

import asyncio
from collections.abc import Iterable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from egrc_mega.errors import RolloutError
from egrc_mega.sync.spool import Bucket, Spool

DTYPES = (torch.float32, torch.bfloat16)
Sizes = dict[str, int]


def tensors(sizes: Sizes, seed: int) -> dict[str, torch.Tensor]:
    """In float32, whatever they are sent in."""
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, size, generator=source) for name, size in sizes.items()}


def read(spool: Spool) -> list[Bucket]:
    async def all_of_them() -> list[Bucket]:
        return [bucket async for bucket in spool.buckets()]

    return asyncio.run(asyncio.wait_for(all_of_them(), 60))


def cut(sizes: Sizes, itemsize: int, limit: int) -> list[list[str]]:
    """Names by bucket: as many as fit, and at least one."""
    rows: list[list[str]] = [[]]
    for name, size in sizes.items():
        room = limit - sum(2 * sizes[each] * itemsize for each in rows[-1])
        if rows[-1] and 2 * size * itemsize > room:
            rows.append([])
        rows[-1].append(name)
    return rows


named = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 6), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(named, st.sampled_from(DTYPES)), min_size=1, max_size=3), st.sampled_from([8, 24, 32, 500]))
def test_every_version_is_read_whole_in_order_and_in_full_buckets(
    versions: list[tuple[Sizes, torch.dtype]], limit: int
) -> None:
    spool = Spool(limit)
    for seed, (sizes, dtype) in enumerate(versions):
        own = tensors(sizes, seed)
        spool.clear()
        spool.fill(iter(own.items()), dtype)
        for _reader in range(2):  # one that comes back reads it again
            found = read(spool)
            assert [[name for name, _t in bucket.tensors] for bucket in found] == cut(sizes, dtype.itemsize, limit)
            assert [bucket.is_last for bucket in found] == [False] * (len(found) - 1) + [True]
            for name, tensor in (pair for bucket in found for pair in bucket.tensors):
                assert tensor.dtype == dtype
                assert torch.equal(tensor, own[name].to(dtype))


def test_the_first_bucket_is_read_while_the_last_is_still_to_come() -> None:
    spool, seen = Spool(8), []

    def gathered() -> Iterable[tuple[str, torch.Tensor]]:
        for name, tensor in tensors({"a": 1, "b": 1, "c": 1}, 0).items():
            seen.append(len(spool._buckets))
            yield name, tensor

    spool.fill(gathered(), torch.float32)
    assert seen == [0, 0, 1]


def test_a_version_that_was_not_finished_is_read_by_nobody_and_the_next_one_is() -> None:
    spool = Spool(8)

    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield from tensors({"a": 1, "b": 1, "c": 1}, 0).items()
        raise ValueError("a rank is gone")

    with pytest.raises(ValueError, match="a rank is gone"):
        spool.fill(broken(), torch.float32)
    with pytest.raises(RolloutError, match="the weights were not gathered whole: a rank is gone"):
        read(spool)
    spool.clear()
    own = tensors({"a": 1, "b": 1}, 1)
    spool.fill(iter(own.items()), torch.float32)
    assert {name: t.tolist() for bucket in read(spool) for name, t in bucket.tensors} == {
        name: tensor.tolist() for name, tensor in own.items()
    }
