"""How DDP lays out a buffer, on cases small enough to be checked by hand. `tests/policy/test_meta.py` has real ones."""

import math

from egrc_mega.plan.buffers import Bucket, Parameter, bucket_size, lay_out


def sizes(*numbers: int) -> list[Parameter]:
    return [Parameter(number) for number in numbers]


def test_the_last_parameter_comes_first_and_gaps_align_the_others() -> None:
    buffer = lay_out(sizes(10, 100), 1, math.inf, is_sharded=True)
    assert buffer.places == ((0, 100), (128, 138))
    assert buffer.buckets == (Bucket(0, 256),)
    assert buffer.parameters == 110


def test_without_sharding_there_are_no_gaps() -> None:
    buffer = lay_out(sizes(10, 100), 3, math.inf, is_sharded=False)
    assert buffer.places == ((0, 100), (100, 110))
    assert buffer.size == buffer.parameters == 110


def test_a_bucket_closes_with_the_parameter_that_fills_it() -> None:
    buffer = lay_out(sizes(64, 64, 64, 64), 1, 100, is_sharded=True)
    assert buffer.buckets == (Bucket(0, 128), Bucket(128, 256))


def test_a_bucket_ends_where_all_replicas_have_an_equal_part() -> None:
    assert lay_out(sizes(1), 3, math.inf, is_sharded=True).size == math.lcm(3, 128)


def test_a_shared_embedding_has_a_bucket_of_its_own() -> None:
    parameters = [Parameter(64, is_shared=True), Parameter(64), Parameter(64)]
    buffer = lay_out(parameters, 1, math.inf, is_sharded=True)
    assert buffer.buckets == (Bucket(0, 128), Bucket(128, 256))
    assert buffer.places[-1] == (128, 192)
    assert len(lay_out(parameters, 1, math.inf, is_sharded=False).buckets) == 1


def test_replicas_own_every_parameter_once_and_no_gap() -> None:
    buffer = lay_out(sizes(1000, 7, 4321), 4, 2000, is_sharded=True)
    assert buffer.places == ((0, 4321), (4352, 4359), (4416, 5416))
    assert buffer.buckets == (Bucket(0, 4352), Bucket(4352, 5504))
    # parts of 1088 and of 288 elements; 31 of the first gap and 57 of the second, then 88 at the end, are nobody's
    assert buffer.owned == (1088 + 7 + 288 - 64, 1088 + 288, 1088 + 288, 1088 - 31 + 288 - 88)
    assert sum(buffer.owned) == buffer.parameters == 5328


def test_buckets_grow_with_the_replicas() -> None:
    assert bucket_size(8, in_buckets=True) == 40_000_000
    assert bucket_size(64, in_buckets=True) == 64_000_000
    assert bucket_size(8, in_buckets=False) == math.inf
