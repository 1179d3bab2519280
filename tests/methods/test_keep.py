"""Which groups dynamic sampling replaces: by accuracy, by the shaped reward, or none."""

from typing import Any

import numpy as np
import pytest

from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import Method, NoState, build_method
from egrc_mega.methods.records import Credit
from egrc_mega.sections.stage import StageSection
from egrc_mega.testing.samples import make_group, make_sample, view_of
from egrc_mega.types import FinishReason, Grade

BY_LETTER: dict[str, dict[str, Any]] = {
    "R": {},
    "W": {"grade": Grade.WRONG},
    "U": {"grade": Grade.UNGRADED},
    "T": {"finish": FinishReason.LENGTH},  # right, but cut off: that is not right
}


def kept(section: StageSection, letters: str, lengths: list[int] | None = None) -> bool:
    method = build_method(section)
    sizes = lengths or [3] * len(letters)
    samples = [make_sample(range(n), **BY_LETTER[letter]) for letter, n in zip(letters, sizes, strict=True)]
    return method.keep(make_group(samples), view_of(method))


def dropping(kind: str, section: type[StageSection] = ExploreSection) -> StageSection:
    return section(clip_len=8, rollout={"drop_groups": kind})


@pytest.mark.parametrize("letters", ["RR", "WW", "UU", "RW"])
def test_never_keeps_every_group(letters: str) -> None:
    assert kept(dropping("never"), letters)


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        *((letters, True) for letters in ("RW", "RRRW", "WWWR", "RT", "RUW")),
        *((letters, False) for letters in ("RR", "WW", "TT", "WT", "RU", "WU", "UU")),
    ],
)
def test_all_right_or_wrong_asks_the_accuracy_of_the_graded_samples(letters: str, expected: bool) -> None:
    assert kept(dropping("all_right_or_wrong"), letters) is expected
    # whatever their lengths: it is not the reward that is asked
    assert kept(dropping("all_right_or_wrong"), letters, list(range(3, 3 + 5 * len(letters), 5))) is expected


@pytest.mark.parametrize(
    ("letters", "lengths", "expected"),
    [("RR", [3, 3], False), ("RR", [3, 12], True), ("WW", [3, 12], True), ("UU", [3, 12], False), ("R", [3], False)],
)
def test_no_advantage_asks_the_shaped_reward(letters: str, lengths: list[int], expected: bool) -> None:
    assert kept(dropping("no_advantage"), letters, lengths) is expected


@pytest.mark.parametrize(("letters", "expected"), [("RWWW", True), ("WWWR", True), ("WRUW", True), ("WWWW", False)])
def test_one_sample_that_teaches_is_enough(letters: str, expected: bool) -> None:
    """In compress only positives have an advantage."""
    assert kept(dropping("no_advantage", CompressSection), letters) is expected


@pytest.mark.parametrize(
    ("credits", "expected"),
    [
        ([Credit(advantage=0.0), Credit(advantage=0.0)], False),
        ([Credit(advantage=1.0, kept=False), Credit(advantage=0.0)], False),
        ([Credit(advantage=np.array([0.0, 0.0, 0.0])), Credit(kept=False)], False),
        ([Credit(advantage=np.array([0.0, -0.5, 0.0])), Credit(kept=False)], True),
        ([Credit(kept=False), Credit(advantage=-1.0)], True),
    ],
)
def test_an_advantage_of_zero_and_a_dropped_sample_teach_nothing(credits: list[Credit], expected: bool) -> None:
    class Fixed(Method[ExploreSection, NoState]):
        def credit(self, groups: Any, view: Any) -> list[list[Credit]]:
            return [credits]

    method = Fixed(dropping("no_advantage"))  # type: ignore[arg-type]
    assert method.keep(make_group([make_sample(range(3))] * 2), view_of(method)) is expected
