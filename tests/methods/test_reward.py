"""Terms that rewards are summed from."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from egrc_mega.methods.reward import AnyReward, reward_terms
from egrc_mega.testing.samples import make_sample
from egrc_mega.types import FinishReason, Grade, Sample

RIGHT = make_sample(range(12))
WRONG = make_sample(range(12), grade=Grade.WRONG, well_formed=False)
CUT = make_sample(range(30), finish=FinishReason.LENGTH, well_formed=False)


def terms(sample: Sample, *sections: dict[str, Any]) -> dict[str, float]:
    return dict(reward_terms(TypeAdapter(tuple[AnyReward, ...]).validate_python(sections), sample))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"reward": "accuracy"}, [1.0, 0.0, 0.0]),
        ({"reward": "accuracy", "wrong": -0.5}, [1.0, -0.5, -0.5]),
        ({"reward": "accuracy", "wrong": -0.5, "weight": 2.0}, [2.0, -1.0, -1.0]),
        ({"reward": "format", "weight": 0.2}, [0.2, 0.0, 0.0]),
        ({"reward": "overlong", "start": 10, "buffer": 4}, [-0.5, -0.5, -1.0]),
        ({"reward": "overlong", "start": 10, "buffer": 4, "floor": 2.5}, [-0.5, -0.5, -2.5]),
        ({"reward": "overlong", "start": 12, "buffer": 4, "weight": 3.0}, [0.0, 0.0, -3.0]),
    ],
)
def test_a_term_is_its_value_times_its_weight(section: dict[str, Any], expected: list[float]) -> None:
    found = [terms(sample, section) for sample in (RIGHT, WRONG, CUT)]
    assert found == [{section["reward"]: pytest.approx(value)} for value in expected]


def test_terms_of_one_kind_are_added_up_and_others_stand_beside_them() -> None:
    sections = [{"reward": "accuracy"}, {"reward": "accuracy", "weight": 0.5}, {"reward": "format"}]
    assert terms(RIGHT, *sections) == {"accuracy": 1.5, "format": 1.0}
    assert terms(RIGHT) == {}
