"""The table: a measurement belongs to weights and protocol, a row to a place in the run."""

from pathlib import Path

import pytest

from egrc_mega.errors import RunError
from egrc_mega.evaluation.records import Response
from egrc_mega.evaluation.store import add_point, read_responses, read_table
from egrc_mega.testing.points import make_point, make_protocol, make_subject

PROTOCOL = make_protocol()


def response(weights: str, text: str = "x", protocol: str = PROTOCOL.key) -> Response:
    return Response(
        weights=weights,
        protocol=protocol,
        problem="p",
        gold="1",
        text=text,
        grade="right",
        length=1,
        truncated=False,
    )


def test_points_protocols_and_responses_come_back_as_they_were(tmp_path: Path) -> None:
    point = add_point(tmp_path, PROTOCOL, make_point(make_subject(), PROTOCOL), [response("base-0-0")])
    table = read_table(tmp_path)
    assert table.points == (point,)
    assert table.protocols == {PROTOCOL.key: PROTOCOL}
    assert read_responses(tmp_path) == [response("base-0-0")]


def test_a_folder_without_a_table_has_an_empty_one(tmp_path: Path) -> None:
    assert read_table(tmp_path).points == ()
    assert read_responses(tmp_path) == []


def test_l_acc_is_against_the_base_of_the_same_protocol_whichever_came_first(tmp_path: Path) -> None:
    other = make_protocol(temperature=1.0)
    base, compress = make_subject(), make_subject("compress", 1, 50)
    assert add_point(tmp_path, PROTOCOL, make_point(compress, PROTOCOL, 0.8, 25.0)).l_acc is None
    assert add_point(tmp_path, other, make_point(base, other, 0.9, 50.0)).l_acc == 0.0
    assert read_table(tmp_path).points[0].l_acc is None
    add_point(tmp_path, PROTOCOL, make_point(base, PROTOCOL, 0.9, 100.0))
    assert read_table(tmp_path).points[0].l_acc == pytest.approx(0.8 * 0.75**0.5)
    assert add_point(tmp_path, PROTOCOL, make_point(make_subject("e", 2, 60), PROTOCOL, None)).l_acc is None


def test_the_same_method_twice_has_two_rows_and_an_extended_stage_keeps_both_ends(tmp_path: Path) -> None:
    places = [("base", 0, 0), ("compress", 1, 50), ("explore", 2, 60), ("compress", 3, 110), ("compress", 3, 120)]
    places.append(("compress", 4, 120))
    for place in places:
        add_point(tmp_path, PROTOCOL, make_point(make_subject(*place), PROTOCOL))
    assert [(p.label, p.ordinal, p.step) for p in read_table(tmp_path).points] == places


def test_a_place_that_is_measured_again_has_the_newer_row_and_only_its_responses(tmp_path: Path) -> None:
    for weights, accuracy in (("old", 0.5), ("new", 0.6)):
        subject = make_subject("compress", 1, 50, weights)
        add_point(tmp_path, PROTOCOL, make_point(subject, PROTOCOL, accuracy), [response(weights)])
    assert [(p.weights, p.accuracy) for p in read_table(tmp_path).points] == [("new", 0.6)]
    assert [r.weights for r in read_responses(tmp_path)] == ["new"]
    add_point(tmp_path, PROTOCOL, make_point(subject, PROTOCOL), [response("new", "again")])
    assert [r.text for r in read_responses(tmp_path)] == ["again"]


def test_numbers_are_found_by_weights_and_protocol_and_by_nothing_else(tmp_path: Path) -> None:
    subject = make_subject("compress", 1, 50, "w")
    point = add_point(tmp_path, PROTOCOL, make_point(subject, PROTOCOL))
    table = read_table(tmp_path)
    assert table.find(make_subject("elsewhere", 7, None, "w"), PROTOCOL) == point
    assert table.find(make_subject("compress", 1, 50, "other"), PROTOCOL) is None
    assert table.find(subject, make_protocol(seed=1)) is None


def test_of_equal_weights_in_several_places_a_subjects_own_row_is_found_before_others(tmp_path: Path) -> None:
    subjects = [make_subject(*place, "w") for place in (("base", 0, 0), ("compress", 1, 50), ("compress", 2, 50))]
    for subject in subjects:
        add_point(tmp_path, PROTOCOL, make_point(subject, PROTOCOL))
    for subject in subjects:
        found = read_table(tmp_path).find(subject, PROTOCOL)
        assert found is not None and (found.label, found.ordinal) == (subject.label, subject.ordinal)


@pytest.mark.parametrize(
    "change",
    [
        {"benchmark_sha256": "d"},
        {"prompts_sha256": "d"},
        {"prompt_key": "Problem"},
        {"answer_key": "Answer"},
        {"instruction": "Think."},
        {"num_problems": 7},
        {"samples_per_problem": 2},
        {"temperature": 0.7},
        {"top_p": 0.9},
        {"max_new_tokens": 21},
        {"stop_token_ids": (2, 3)},
        {"seed": 1},
        {"grading": {"timeout_s": 6.0}},
        {"environment": {"name": "noisy_arithmetic", "probability": 0.3}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_can_move_a_number_makes_another_protocol(change: dict[str, object]) -> None:
    assert make_protocol(**change).key != PROTOCOL.key
    assert make_protocol().key == PROTOCOL.key


@pytest.mark.parametrize("content", ['{"points": [{"stage": "base"}], "protocol": null}', '{"points', "[]"])
def test_a_table_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(RunError, match=r"evaluation\.json is torn, or was written by another version"):
        read_table(tmp_path)
