"""Which number of a result a figure is."""

import pytest

from egrc_mega.studies.lookup import Figure
from egrc_mega.studies.records import Result, StagePassed
from egrc_mega.testing.results import point

RUN = Result(
    setting="eg",
    seed=1,
    points=[
        point("base", 0, 0.5, 100.0, 0.6),
        point("base", 0, 0.4, 80.0, 1.0),
        point("compress", 1, 0.7, 30.0, 0.6),
        point("compress", 1, 0.6, 32.0, 1.0),
        point("explore", 2, 0.9, 40.0, 0.6),
        point("explore", 2, 0.8, 44.0, 1.0),
    ],
    stages=[
        StagePassed(name="compress", method="compress", steps=6, reason=""),
        StagePassed(name="explore", method="explore", steps=2, reason=""),
    ],
    curves={
        "stage": ["compress"] * 6 + ["explore"] * 2,
        "entropy": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 7.0, None],
    },
    wall_s=12.0,
)


def test_the_end_is_the_last_point_and_a_stage_the_point_after_it() -> None:
    assert Figure(metric="accuracy", temperature=1.0).of(RUN) == 0.8
    assert Figure(metric="accuracy", temperature=1.0, point="compress").of(RUN) == 0.6
    assert Figure(metric="length", temperature=0.6, point="base").of(RUN) == 100.0


def test_without_a_temperature_the_lowest_is_meant() -> None:
    assert Figure(metric="accuracy").of(RUN) == 0.9


def test_a_share_is_of_the_base_at_the_same_temperature() -> None:
    assert Figure(metric="length_share", temperature=1.0).of(RUN) == pytest.approx(44 / 80)


def test_a_figure_of_the_steps_is_a_mean_of_five_within_the_stage() -> None:
    of_compress = {
        when: Figure(metric="entropy", point="compress", when=when).of(RUN)
        for when in ("first", "last", "highest", "lowest")
    }
    assert of_compress == {"first": 4.0, "last": 3.0, "highest": 4.0, "lowest": 3.0}


def test_a_stage_of_fewer_steps_is_averaged_whole_and_what_was_not_measured_is_left_out() -> None:
    assert Figure(metric="entropy").of(RUN) == 7.0


def test_steps_are_those_of_the_run_or_of_a_stage() -> None:
    assert Figure(metric="steps").of(RUN) == 8.0
    assert Figure(metric="steps", point="compress").of(RUN) == 6.0


@pytest.mark.parametrize(
    "figure",
    [
        Figure(metric="accuracy", temperature=0.7),
        Figure(metric="accuracy", point="nowhere"),
        Figure(metric="connectors_check"),
        Figure(metric="entropy", point="base"),
        Figure(metric="steps", point="nowhere"),
    ],
)
def test_what_a_result_does_not_have_is_none(figure: Figure) -> None:
    assert figure.of(RUN) is None
