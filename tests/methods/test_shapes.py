"""Length shaping, from the paper's section 3.3.3 and its ablations."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.shapes import ShapeSection, linear_over, shaped
from egrc_mega.testing.samples import make_group, make_sample, view_of


def shaping(section: ShapeSection, clip_len: int) -> Callable[[int], float]:
    return lambda length: shaped(section, clip_len, length)


@pytest.mark.parametrize("kind", ["exp", "linear", "cosine"])
@pytest.mark.parametrize("r", [0.03, 0.1, 0.5])
def test_every_shape_is_1_at_zero_and_r_at_the_clip_and_falls_in_between(kind: str, r: float) -> None:
    f = shaping(ShapeSection(kind=kind, r=r), 72)
    assert f(0) == pytest.approx(1.0)
    assert f(72) == pytest.approx(r)
    values = [f(length) for length in range(73)]
    assert all(a > b for a, b in pairwise(values))


def test_exp_has_the_published_rate() -> None:
    f = shaping(ShapeSection(kind="exp", r=0.1), 4096)
    assert f(1000) == pytest.approx(math.exp(math.log(0.1) / 4096 * 1000))
    assert f(1000) == pytest.approx(0.570, abs=5e-4)


def test_cosine_is_above_linear_is_above_exp_in_the_first_half() -> None:
    at = {kind: shaping(ShapeSection(kind=kind, r=0.1), 4096)(1024) for kind in ("exp", "linear", "cosine")}
    assert at == pytest.approx({"exp": 0.562, "linear": 0.775, "cosine": 0.868}, abs=5e-4)


def test_none_is_flat_and_a_length_of_its_own_is_honoured() -> None:
    assert shaping(ShapeSection(kind="none"), 72)(50) == 1.0
    assert shaping(ShapeSection(kind="exp", r=0.1, len=36), 72)(36) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", ["exp", "linear", "cosine"])
def test_compress_shapes_by_the_clip_whatever_the_cap_of_the_sampling_is(kind: str) -> None:
    section = CompressSection(clip_len=10, beta=1.0, shape={"kind": kind, "r": 0.2}, rollout={"max_new_tokens": 40})
    method = build_method(section)
    [[half, at_clip, beyond]] = method.credit(
        [make_group([make_sample(range(n)) for n in (5, 10, 11)])], view_of(method)
    )
    expected = {"exp": 0.2**0.5, "linear": 0.6, "cosine": 0.6}[kind]
    assert half.advantage == half.reward == pytest.approx(expected)
    assert at_clip.advantage == pytest.approx(0.2)
    assert (beyond.advantage, beyond.kept) == (0.0, False)


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0.0), (10, 0.0), (11, -0.125), (14, -0.5), (16, -0.75), (18, -0.75), (99, -0.75)]
)
def test_a_penalty_beyond_a_length_falls_evenly_to_its_floor(length: int, expected: float) -> None:
    assert linear_over(length, 10, 4, 0.5, -0.75) == pytest.approx(expected)
