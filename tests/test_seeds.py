"""Seeds: a function of every part and its place, the same on every machine and in every version."""

import hashlib

import pytest

from egrc_mega.seeds import derive_seed


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((7, "rollout", 3, -1, 0), "int:7/str:rollout/int:3/int:-1/int:0"),
        ((5, "segment", 12, 0), "int:5/str:segment/int:12/int:0"),
        ((1,), "int:1"),
    ],
)
def test_a_seed_is_31_bits_of_the_hash_of_its_parts_with_their_types(parts: tuple[int | str, ...], text: str) -> None:
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    assert derive_seed(*parts) == int.from_bytes(digest, "big") % 2**31


def test_every_part_its_type_and_its_place_make_another_seed() -> None:
    parts = [(1, "a", 2), (2, "a", 1), (1, "a", 3), (1, "b", 2), ("1", "a", 2), (1, "a"), (1, "a", 2, 0)]
    assert len({derive_seed(*one) for one in parts}) == len(parts)


def test_a_seed_fits_what_servers_keep_it_in_and_uses_all_of_it() -> None:
    seeds = [derive_seed(1, "rollout", n) for n in range(2000)]
    assert min(seeds) >= 0 and max(seeds) < 2**31
    assert max(seeds) > 0.99 * 2**31
    assert len(set(seeds)) == len(seeds)
