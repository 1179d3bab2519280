"""Good rows in, bad rows in quarantine, and one clear line when a file cannot be used."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egrc_mega.data.reader import read_problems
from egrc_mega.errors import DataError
from egrc_mega.sections.data import DataSection

GOOD = b'{"problem": "1 + 1 = ?", "answer": "2"}'


def _section(path: Path, share: float = 0.9) -> DataSection:
    return DataSection(train=path, max_quarantined_share=share)


def _quarantined(path: Path) -> list[tuple[int, str]]:
    if not path.exists():
        return []
    return [(row["line"], row["reason"]) for row in map(json.loads, path.read_text().splitlines())]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"problem": "x", "answer": "1"', "not JSON: Expecting ',' delimiter"),
        (b"[1, 2]", "a JSON object is expected, this is a list"),
        (b'{"problem": "x\xff", "answer": "1"}', "not UTF-8: byte 0xff at byte 15"),
        (b'{"problem": "x"}', "key 'answer' is missing; the row has ['problem']"),
        (b'{"question": "x", "answer": "1"}', "key 'problem' is missing"),
        (
            b'{"problem": ["x"], "answer": "1"}',
            "'problem' must be a text, or the messages of one user, found the roles",
        ),
        (b'{"problem": 3, "answer": "1"}', "'problem' must be a non-empty string, found 3"),
        (b'{"problem": "  ", "answer": "1"}', "'problem' must be a non-empty string, found '  '"),
        (b'{"problem": "x\\ud800", "answer": "1"}', "'problem' holds half a character"),
        (b'{"problem": "x", "answer": ""}', "'answer' must be a non-empty string"),
        (b'{"problem": "x", "answer": null}', "'answer' must be a non-empty string or a number, found None"),
        (b'{"problem": "x", "answer": true}', "'answer' must be a non-empty string or a number, found True"),
        (b'{"problem": "x", "answer": []}', "'answer' must be a non-empty string or a number, found []"),
        (b'{"problem": "x", "answer": NaN}', "not JSON: NaN is no JSON value"),
        (b'{"problem": "x", "answer": 1e999}', "'answer' must be a finite number below 1e308, found 1e999"),
        (b'{"problem": "x", "answer": %s}' % (b"1" * 5000), "'answer' must be a finite number below 1e308, found 111"),
        (b"[" * 100_000, "not JSON: "),
        (
            b'{"problem": "1 + 1 = ?", "answer": "3"}',
            "the problem of train.jsonl:1 again, with another answer: '3' instead of '2'",
        ),
    ],
)
def test_a_malformed_row_is_quarantined_with_its_line_and_reason(tmp_path: Path, row: bytes, reason: str) -> None:
    path, quarantine = tmp_path / "train.jsonl", tmp_path / "run" / "quarantine.jsonl"
    path.write_bytes(GOOD + b"\n\n" + row + b"\n" + GOOD + b"\n")
    problems = read_problems(path, _section(path), quarantine)
    assert [(p.key, p.text, p.answer) for p in problems] == [
        ("train.jsonl:1", "1 + 1 = ?", "2"),
        ("train.jsonl:4", "1 + 1 = ?", "2"),
    ]
    ((line, found),) = _quarantined(quarantine)
    assert line == 3 and found.startswith(reason)
    assert json.loads(quarantine.read_text())["file"] == str(path)


@pytest.mark.parametrize("key", ["problem", "answer"])
def test_a_gigantic_text_is_quarantined_without_being_looked_at(tmp_path: Path, key: str) -> None:
    path, quarantine = tmp_path / "train.jsonl", tmp_path / "quarantine.jsonl"
    row = {"problem": "x", "answer": "1", key: "1 " * 2**19 + "1"}
    path.write_bytes(GOOD + b"\n" + json.dumps(row).encode() + b"\n")
    for profile in ("default", None):
        assert len(read_problems(path, _section(path), quarantine, profile=profile)) == 1
        ((line, reason),) = _quarantined(quarantine)
        assert (line, reason) == (2, f"'{key}' has 1048577 characters, more than the 1048576 that are read")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("142", "142"),
        ("142.0", "142"),
        ("-3", "-3"),
        ("0.5", "0.5"),
        ("1e-7", "0.0000001"),
        ("8.7e8", "870000000"),
        ("1e22", "10000000000000000000000"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('" \\\\frac12 "', "\\frac12"),
        ('"142.0"', "142.0"),
    ],
)
def test_a_number_is_taken_as_its_text(tmp_path: Path, answer: str, text: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"problem": "x", "answer": {answer}}}')
    assert [p.answer for p in read_problems(path, _section(path), tmp_path / "q")] == [text]


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD + b"\r\n")
    assert [p.key for p in read_problems(path, _section(path), tmp_path / "q")] == ["train.jsonl:1", "train.jsonl:2"]
    assert not (tmp_path / "q").exists()


def test_other_keys_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "aime.jsonl"
    path.write_text('{"Question": "x", "final": 7, "problem": 3}')
    section = DataSection(train=path, prompt_key="Question", answer_key="final")
    assert [(p.text, p.answer) for p in read_problems(path, section, tmp_path / "q")] == [("x", "7")]


def test_more_malformed_rows_than_the_share_are_an_error_that_names_the_first(tmp_path: Path) -> None:
    path, quarantine = tmp_path / "train.jsonl", tmp_path / "q.jsonl"
    path.write_bytes(b"\n".join([GOOD] * 7 + [b"{", b"}", b"{"]))
    with pytest.raises(DataError) as caught:
        read_problems(path, _section(path, share=0.2), quarantine)
    message = str(caught.value)
    assert f"data file {path}: 3 of 10 rows are malformed, more than data.max_quarantined_share = 0.2" in message
    assert "first: line 8: not JSON" in message and str(quarantine) in message and "\n" not in message
    assert [line for line, _reason in _quarantined(quarantine)] == [8, 9, 10]
    assert len(read_problems(path, _section(path, share=0.3), quarantine)) == 7


def test_reading_again_after_a_resume_lists_no_row_twice(tmp_path: Path) -> None:
    train, other, quarantine = tmp_path / "train.jsonl", tmp_path / "eval.jsonl", tmp_path / "q.jsonl"
    for path in (train, other, train, other):
        path.write_bytes(GOOD + b"\n{")
        read_problems(path, _section(path), quarantine)
    assert [json.loads(row)["file"] for row in quarantine.read_text().splitlines()] == [str(train), str(other)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eval.jsonl", "q.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has no rows"), (b"\n \n", "has no rows"), (b"{", "1 of 1 rows are malformed, none is left; first: line 1")],
)
def test_a_file_without_good_rows_is_an_error_whatever_the_share(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_problems(path, _section(path, share=1.0), tmp_path / "q")


def test_a_missing_file_is_an_error_that_names_the_fields(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(DataError, match=r"is not a file; set data\.train and evaluation\.data"):
            read_problems(path, _section(path), tmp_path / "q")


def test_parquet_without_pyarrow_is_an_error_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="install pyarrow, or convert it to JSONL"):
        read_problems(path, _section(path), tmp_path / "q")


def test_parquet_rows_are_read_and_judged_like_lines(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    parquet = pytest.importorskip("pyarrow.parquet")
    path, quarantine = tmp_path / "train.parquet", tmp_path / "q"
    table = pyarrow.table({"problem": ["x", None, "y", "z"], "answer": [142.0, 1.0, None, 0.25]})
    parquet.write_table(table, path)
    problems = read_problems(path, _section(path), quarantine)
    assert [(int(p.key.rpartition(":")[2]), p.text, p.answer) for p in problems] == [(1, "x", "142"), (4, "z", "0.25")]
    assert [line for line, _reason in _quarantined(quarantine)] == [2, 3]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="is not a whole parquet file"):
        read_problems(path, _section(path), quarantine)


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.binary(max_size=40).filter(lambda row: b"\n" not in row), max_size=6))
def test_every_row_is_either_good_or_in_quarantine(tmp_path: Path, rows: list[bytes]) -> None:
    path, quarantine = tmp_path / "train.jsonl", tmp_path / "q"
    quarantine.unlink(missing_ok=True)
    path.write_bytes(b"\n".join([GOOD, *rows, GOOD]))
    problems = read_problems(path, _section(path, share=1.0), quarantine)
    bad = [line for line, _reason in _quarantined(quarantine)]
    assert sorted([*(int(p.key.rpartition(":")[2]) for p in problems), *bad]) == [
        1,
        *(i for i, r in enumerate(rows, 2) if r.strip().removeprefix(b"\xef\xbb\xbf").strip()),
        len(rows) + 2,
    ]


def test_the_facts_that_are_asked_for_are_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"problem": "x", "answer": "1", "difficulty": 3, "other": "text"}\n')
    section = _section(path).model_copy(update={"facts": ("difficulty",)})
    [problem] = read_problems(path, section, tmp_path / "q")
    assert problem.facts == {"difficulty": 3.0}


@pytest.mark.parametrize("value", ['"3"', "true", "null", "[3]", "1e999"])
def test_a_row_whose_fact_is_no_finite_number_is_quarantined(tmp_path: Path, value: str) -> None:
    path = tmp_path / "train.jsonl"
    rows = [
        '{"problem": "x", "answer": "1", "difficulty": 3}',
        f'{{"problem": "y", "answer": "1", "difficulty": {value}}}',
    ]
    path.write_text("\n".join(rows))
    section = _section(path, share=1.0).model_copy(update={"facts": ("difficulty",)})
    assert [p.text for p in read_problems(path, section, tmp_path / "q")] == ["x"]
    ((line, reason),) = _quarantined(tmp_path / "q")
    assert (line, reason.partition(",")[0]) == (2, "'difficulty' must be a finite number")
