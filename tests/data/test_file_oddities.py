"""Files as the world ships them: what is read, what is set aside by line, and what is refused as a whole."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.data.reader import Reading, read
from egrc_mega.errors import DataError
from egrc_mega.sections.data import DataSection

BOM = b"\xef\xbb\xbf"
ROWS = [{"problem": "1 + 1 = ?", "answer": "2"}, {"problem": "2 + 2 = ?", "answer": "4"}]
ONE, TWO = (json.dumps(row).encode() for row in ROWS)
BOTH = [("1 + 1 = ?", "2"), ("2 + 2 = ?", "4")]


def reading(folder: Path, content: bytes, name: str = "train.jsonl", **fields: Any) -> Reading:
    path = folder / name
    path.write_bytes(content)
    return read(path, DataSection(train=path, **fields))


def pairs(found: Reading) -> list[tuple[str, str]]:
    return [(problem.text, problem.answer) for problem in found.good]


READ = {
    "lines": ONE + b"\n" + TWO + b"\n",
    "blank lines": b"\n" + ONE + b"\n \t\n" + TWO,
    "a byte order mark": BOM + ONE + b"\n" + TWO,
    "Windows line ends": ONE + b"\r\n" + TWO + b"\r\n",
    "old Mac line ends": ONE + b"\r" + TWO + b"\r",
    "a mark in the middle, of two files joined": BOM + ONE + b"\n" + BOM + TWO,
    "a mark in the middle, without a line end before it": BOM + ONE + BOM + TWO,
    "a mark on a line of its own": BOM + ONE + b"\n" + BOM + b"\n" + TWO,
    "an array on one line": b"[" + ONE + b", " + TWO + b"]",
    "an array, a row a line": b"[\n" + ONE + b",\n" + TWO + b"\n]\n",
    "an array whose first line has a row": b"[" + ONE + b",\n" + TWO + b"]",
    "an array, pretty-printed": json.dumps(ROWS, indent=4).encode(),
    "an array with a mark": BOM + json.dumps(ROWS, indent=1).encode(),
    "an array with old Mac line ends": json.dumps(ROWS, indent=1).encode().replace(b"\n", b"\r"),
    "objects, pretty-printed": b"\n".join(json.dumps(row, indent=2).encode() for row in ROWS),
    "objects, pretty-printed, joined with a mark": BOM.join(json.dumps(row, indent=2).encode() for row in ROWS),
    "lines under gzip": gzip.compress(ONE + b"\n" + TWO),
    "two gzip members": gzip.compress(ONE + b"\n") + gzip.compress(TWO),
    "an array under gzip": gzip.compress(json.dumps(ROWS, indent=1).encode()),
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_every_common_shape_of_json_is_read_whatever_the_name(content: bytes, tmp_path: Path) -> None:
    for name in ("train.jsonl", "train.json", "train.jsonl.gz"):
        found = reading(tmp_path, content, name)
        assert (pairs(found), found.bad) == (BOTH, [])
        assert len({problem.key for problem in found.good}) == 2, "state is kept by the key"


REFUSED = {
    "CSV": (b'problem,answer\n"1 + 1",2\n', "train.csv", r"table in text \(CSV\).*python -c .*< train\.csv > train"),
    "CSV under another name": (b"problem,answer\n1 + 1,2\n", "train.jsonl", r"table in text \(CSV\)"),
    "a table with tabs": (b"problem\tanswer\n1 + 1\t2\n", "train.tsv", r"table in text \(CSV\)"),
    "a cut gzip file": (gzip.compress(ONE * 50)[:-9], "train.jsonl.gz", "not a whole gzip file"),
    "a broken gzip file": (gzip.compress(ONE)[:12] + b"\xff" * 30, "train.jsonl", "not a whole gzip file"),
    "bzip2": (b"BZh91AY&SY", "train.jsonl.bz2", "packed; unpack it first, for instance with bunzip2"),
    "zip": (b"PK\x03\x04....", "train.jsonl.zip", "packed; unpack it first, for instance with unzip"),
    "an array that is cut": (
        b"[\n" + ONE + b",\n" + TWO + b",",
        "train.json",
        r"line 3: not JSON: the array's \] is missing",
    ),
    "an array that is cut in a row": (b"[\n" + ONE + b',\n{"problem": "x', "train.json", "line 3: not JSON: Untermin"),
    "an array without a comma": (b"[\n" + ONE + b"\n" + TWO + b"]", "train.json", "line 3: not JSON: a comma or"),
    "an array with something after it": (b"[\n" + ONE + b"]\nmore", "train.json", "line 3: not JSON: something stands"),
    "an array in Latin-1": (b'[\n{"problem": "\xe9"}]', "train.json", "line 2: not UTF-8: byte 0xe9"),
    "a broken object among pretty-printed ones": (
        json.dumps(ROWS[0], indent=1).encode() + b'\n{\n "problem": \n}',
        "train.json",
        "line 7: not JSON: Expecting value",
    ),
    "an empty array": (b"[]", "train.json", "has no rows"),
    "UTF-16": ((ONE + b"\n").decode().encode("utf-16"), "train.jsonl", "not UTF-8: byte 0xff"),
}


@pytest.mark.parametrize(("content", "name", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_one_error_with_the_place_and_the_remedy(
    content: bytes, name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        found = reading(tmp_path, content, name)
        found.require_enough(DataSection(train=found.path), "q")
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_broken_row_is_set_aside_by_line_whatever_ends_the_lines(end: bytes, tmp_path: Path) -> None:
    found = reading(tmp_path, end.join([ONE, b'{"problem": "x"', TWO]))
    assert (pairs(found), [bad.line for bad in found.bad]) == (BOTH, [2])


def test_files_that_were_joined_within_a_line_are_two_rows_of_it(tmp_path: Path) -> None:
    found = reading(tmp_path, ONE + b"\n" + TWO + BOM + ONE + b"\n{")
    assert [problem.key for problem in found.good] == ["train.jsonl:1", "train.jsonl:2", "train.jsonl:2.2"]
    assert [bad.line for bad in found.bad] == [3]


def test_the_conversion_that_is_proposed_makes_rows_of_a_table(tmp_path: Path) -> None:
    import csv
    import io

    table = io.StringIO('problem,answer\n"1 + 1, or\nso",\\frac{1}{2}\n')
    lines = "\n".join(json.dumps(row) for row in csv.DictReader(table))
    assert pairs(reading(tmp_path, lines.encode())) == [("1 + 1, or\nso", "\\frac{1}{2}")]


SET_ASIDE = {
    # numbers that are not what they were written as
    "an integer of 309 digits": (b'{"problem": "x", "answer": %s}' % (b"9" * 309), "below 1e308"),
    "an integer of 4300 digits": (b'{"problem": "x", "answer": %s}' % (b"7" * 4300), "below 1e308, found 7777"),
    "an integer of 5000 digits": (b'{"problem": "x", "answer": %s}' % (b"7" * 5000), "below 1e308"),
    "a float beyond all floats": (b'{"problem": "x", "answer": 1e999}', "must be a finite number below 1e308"),
    "a float with a huge exponent": (b'{"problem": "x", "answer": 1e-99999999}', "must be a finite number below"),
    "an exponent no machine holds": (b'{"problem": "x", "answer": 1e99999999999999999999}', "must be a finite number"),
    "a huge integer in a list": (b'{"problem": "x", "answer": [%s]}' % (b"9" * 400), "below 1e308"),
    # keys
    "two answers": (b'{"problem": "x", "answer": "1", "answer": "2"}', "key 'answer' stands twice"),
    "two equal answers": (b'{"problem": "x", "answer": "1", "answer": "1"}', "key 'answer' stands twice"),
    "two problems": (b'{"problem": "x", "problem": "y", "answer": "1"}', "key 'problem' stands twice"),
    "two keys within": (b'{"problem": "x", "answer": "1", "info": {"a": 1, "a": 2}}', "key 'a' stands twice"),
    # backslashes that JSON has eaten, and other characters that no text holds
    "frac": (rb'{"problem": "x", "answer": "\frac{1}{2}"}', "'answer' holds the control character U+000C, left of a"),
    "times": (rb'{"problem": "x", "answer": "\times 3"}', "U+0009, left of a backslash before t"),
    "times within": (rb'{"problem": "x", "answer": "2 \times 3"}', "U+0009, left of a backslash before t"),
    "beta": (rb'{"problem": "x", "answer": "\beta"}', "U+0008, left of a backslash before b"),
    "rho": (rb'{"problem": "x", "answer": "\rho"}', "U+000D, left of a backslash before r"),
    "neq": (rb'{"problem": "x", "answer": "x \neq 3"}', "U+000A, left of a backslash before n"),
    "a tab": (b'{"problem": "x", "answer": "1\\t2"}', "U+0009"),
    "nu": (rb'{"problem": "x", "answer": "\nu"}', "U+000A, left of a backslash before n"),
    "frac in a list": (rb'{"problem": "x", "answer": ["\frac{1}{2}"]}', "U+000C"),
    "frac in a problem": (rb'{"problem": "what is \frac{1}{2}?", "answer": "1"}', "'problem' holds the control charac"),
    "theta in a problem": (rb'{"problem": "what is \theta?", "answer": "1"}', "U+0009, left of a backslash before t"),
    "NUL in a problem": (rb'{"problem": "x\u0000", "answer": "1"}', "'problem' holds the control character U+0000:"),
    "NUL in an answer": (rb'{"problem": "x", "answer": "1\u0000"}', "'answer' holds the control character U+0000:"),
    "escape in a problem": (rb'{"problem": "\u001b[31mx", "answer": "1"}', "U+001B"),
    "a C1 control": (rb'{"problem": "x", "answer": "1\u0085"}', "U+0085"),
    "half a character": (rb'{"problem": "x", "answer": "\ud800"}', "half a character"),
    # answers that say nothing, or too much
    "an empty answer": (b'{"problem": "x", "answer": ""}', "must be a non-empty string"),
    "spaces": (b'{"problem": "x", "answer": " \\n "}', "must be a non-empty string"),
    "dollars": (b'{"problem": "x", "answer": "$$"}', "says nothing"),
    "a full stop": (b'{"problem": "x", "answer": "."}', "says nothing"),
    "a dash": (b'{"problem": "x", "answer": "-"}', "says nothing"),
    "an invisible space": (rb'{"problem": "x", "answer": "\u200b"}', "says nothing"),
    "a byte order mark": (rb'{"problem": "x", "answer": "\ufeff"}', "says nothing"),
    "brackets of mathematics": (rb'{"problem": "x", "answer": "\\( \\)"}', "says nothing"),
    "an empty box": (rb'{"problem": "x", "answer": "\\boxed{}"}', "says nothing"),
    "an empty text": (rb'{"problem": "x", "answer": "\\text{ }"}', "says nothing"),
    "an empty list": (b'{"problem": "x", "answer": []}', "must be a non-empty string or a number, found []"),
    "an empty text in a list": (b'{"problem": "x", "answer": ["1", "$"]}', "says nothing"),
    "1,001 characters": (b'{"problem": "x", "answer": "%s"}' % (b"1" * 1001), "has 1001 characters, more than 1000"),
    "a megabyte": (b'{"problem": "x", "answer": "%s"}' % (b"x" * 10**6), "has 1000000 characters"),
    # other things than answers
    "null": (b'{"problem": "x", "answer": null}', "must be a non-empty string or a number, found None"),
    "a truth value": (b'{"problem": "x", "answer": true}', "must be a non-empty string or a number, found True"),
    "an object": (b'{"problem": "x", "answer": {"a": 1}}', "must be a non-empty string or a number"),
    "a list within a list": (b'{"problem": "x", "answer": [["1"], "2"]}', "must be a non-empty string or a number"),
    "NaN": (b'{"problem": "x", "answer": NaN}', "not JSON: NaN is no JSON value"),
    "a leading zero": (b'{"problem": "x", "answer": 025}', "not JSON"),
    "a torn line": (b'{"problem": "x", "answer": "1', "not JSON: Unterminated string"),
    "NUL padding": (b"\0" * 40, "not JSON"),
    "a comment": (b"# the first ten", "not JSON"),
    "Latin-1": (b'{"problem": "caf\xe9", "answer": "1"}', "not UTF-8: byte 0xe9 at byte 17"),
    "single quotes": (b"{'problem': 'x', 'answer': '1'}", "not JSON"),
    "a chat with an answer in it": (
        b'{"problem": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "1"}], "answer": "1"}',
        "must be a text, or the messages of one user, found the roles ['user', 'assistant']",
    ),
    "a chat without words": (
        b'{"problem": [{"role": "user", "content": ""}], "answer": "1"}',
        "'problem content' must",
    ),
    "a list that is no chat": (b'{"problem": ["x"], "answer": "1"}', "must be a text, or the messages of one user"),
}


@pytest.mark.parametrize(("row", "reason"), SET_ASIDE.values(), ids=SET_ASIDE)
def test_a_row_that_cannot_be_trusted_is_set_aside_by_line(row: bytes, reason: str, tmp_path: Path) -> None:
    found = reading(tmp_path, ONE + b"\n\n" + row + b"\n" + TWO)
    assert pairs(found) == BOTH
    [bad] = found.bad
    assert (bad.line, reason in bad.reason) == (3, True), bad.reason
    assert len(bad.reason) < 400 and "\n" not in bad.reason


ANSWERS = {
    "a float": (b"142.0", "142"),
    "a float with more zeros": (b"204.00", "204"),
    "an integer": (b"-3", "-3"),
    "digits that a float loses": (b"12345678901234567890.0", "12345678901234567890"),
    "decimals that a float loses": (b"0.12345678901234567890", "0.12345678901234567890"),
    "a long integer": (b"1" * 300, "1" * 300),
    "a small number": (b"1e-7", "0.0000001"),
    "a large number": (b"4.5e33", "45" + "0" * 32),
    "minus zero": (b"-0.0", "-0"),
    "a text of digits": (b'"025"', "025"),
    "a text with a point": (b'"142.0"', "142.0"),
    "a list of one text": (b'["3"]', "3"),
    "a list of one number": (b"[3.0]", "3"),
    "a list of one with a line end": (b'["9.6\\n"]', "9.6"),
    "a line end of Windows": (b'"9.6\\r\\n"', "9.6"),
    "a list of several": (b'["1.6\\n", "1.571"]', '["1.6", "1.571"]'),
    "a list as text": (b"\"['3']\"", "['3']"),
    "LaTeX": (rb'"\\frac{1}{2}"', "\\frac{1}{2}"),
    "the empty set": (rb'"\\{\\}"', "\\{\\}"),
    "the empty set as a sign": ('"∅"'.encode(), "∅"),
    "the empty set as a command": (rb'"\\emptyset"', "\\emptyset"),
    "infinity": (rb'"\u221e"', "∞"),
    "two lines": (b'"x = 1\\nx = 2"', "x = 1\nx = 2"),
    "1,000 characters": (b'"%s"' % (b"1" * 1000), "1" * 1000),
    "what GSM8K marks": (b'"2 + 2 = <<2+2=4>>4\\n#### 4"', "4"),
    "what GSM8K marks after a box": (rb'"so \\boxed{3} ducks\n#### 4"', "4"),
    "a box": (rb'"so it is \\boxed{\\frac{1}{2}}."', "\\frac{1}{2}"),
    "a line separator within": (rb'"1\u2028"', "1"),
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_keeps_its_digits_and_loses_its_wrapping(answer: bytes, expected: str, tmp_path: Path) -> None:
    found = reading(tmp_path, b'{"problem": "x", "answer": %s}' % answer)
    assert [bad.reason for bad in found.bad] == []
    assert pairs(found) == [("x", expected)]


CHAT = [{"role": "user", "content": "1 + 1 = ?"}]
LAYOUTS = {
    "verl": ({"prompt": CHAT, "reward_model": {"ground_truth": "2", "style": "rule"}}, "reward_model.ground_truth"),
    "verl, a float": ({"prompt": CHAT, "reward_model": {"ground_truth": 2.0}}, "reward_model.ground_truth"),
    "slime": ({"prompt": CHAT, "label": "2"}, "label"),
    "slime, a text": ({"prompt": "1 + 1 = ?", "label": "2"}, "label"),
    "a dot within the key": ({"prompt": "1 + 1 = ?", "reward_model.ground_truth": "2"}, "reward_model.ground_truth"),
    "parts of a message": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "1 + 1 = ?"}]}], "a": 2},
        "a",
    ),
    "DeepScaleR's GSM8K": ({"prompt": "1 + 1 = ?", "solution": "1 + 1 = 2\n#### 2", "answer": None}, "answer"),
    "Qwen's Minerva": ({"prompt": "1 + 1 = ?", "solution": "so $\\boxed{1}$, then \\boxed{2} \\mathrm{~cm}"}, "answer"),
    "the solution named": ({"prompt": "1 + 1 = ?", "solution": "so \\boxed{2}"}, "solution"),
    "OlympiadBench": ({"prompt": "1 + 1 = ?", "final_answer": ["2"], "solution": ["\\boxed{7}"]}, "final_answer"),
}


@pytest.mark.parametrize(("row", "answer_key"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_layouts_of_other_software_are_read(row: dict, answer_key: str, tmp_path: Path) -> None:
    found = reading(tmp_path, json.dumps(row).encode(), prompt_key="prompt", answer_key=answer_key)
    assert [bad.reason for bad in found.bad] == []
    assert pairs(found) == [("1 + 1 = ?", "2")]


def test_a_system_message_stays_one(tmp_path: Path) -> None:
    row = {"problem": [{"role": "system", "content": "Be brief."}, *CHAT], "answer": "2"}
    [problem] = reading(tmp_path, json.dumps(row).encode()).good
    assert (problem.system, problem.text) == ("Be brief.", "1 + 1 = ?")


def test_a_missing_nested_key_is_named(tmp_path: Path) -> None:
    found = reading(tmp_path, b'{"problem": "x", "reward_model": {"style": "rule"}}', answer_key="reward_model.gold")
    assert found.bad[0].reason == "key 'reward_model.gold' is missing; the row has ['problem', 'reward_model']"


def test_what_olympiadbench_says_of_an_answer_travels_with_it(tmp_path: Path) -> None:
    columns = {"is_multiple_answer": True, "unit": " km/h ", "error": "1e-1"}
    rows = [{"problem": "x", "answer": ["$7$"]} | columns, {"problem": "y", "answer": "7", "unit": "Unit 3"}]
    first, second = reading(tmp_path, "\n".join(map(json.dumps, rows)).encode()).good
    assert (first.hints.multiple, first.hints.unit, first.hints.error) == (True, "km/h", "0.1")
    assert (second.hints.multiple, second.hints.unit, second.hints.error) == (False, None, None)


SAME = [
    ("142", '"142.0"'),
    ('"1/2"', '"\\\\frac{1}{2}"'),
    ('"$4$"', '"4"'),
    ("0.5", '"1/2"'),
    ("7", '["7"]'),
    ('"x = 5"', "5"),
    ('"(1,2)"', '"\\\\left( 1, 2 \\\\right)"'),
    ('"\\\\sqrt{8}"', '"2\\\\sqrt{2}"'),
    ('"x + 1"', '"1 + x"'),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same_value_spelled_otherwise_is_no_contradiction(first: str, second: str, tmp_path: Path) -> None:
    rows = [f'{{"problem": "x", "answer": {answer}}}' for answer in (first, second)]
    found = reading(tmp_path, "\n".join(rows).encode())
    assert [bad.reason for bad in found.bad] == []


def test_a_contradiction_that_only_an_evaluation_tells_is_set_aside_in_its_place(tmp_path: Path) -> None:
    answers = ["\\sqrt{8}", "2\\sqrt{2}", "3\\sqrt{2}", "\\sqrt{8}"]
    rows = [json.dumps({"problem": "x", "answer": answer}) for answer in answers]
    found = reading(tmp_path, "\n".join([*rows, "{"]).encode())
    assert [problem.answer for problem in found.good] == [answers[0], answers[1], answers[3]]
    assert [bad.line for bad in found.bad] == [3, 5]
    assert "another answer: '3\\\\sqrt{2}' instead of '\\\\sqrt{8}'" in found.bad[0].reason


def test_a_gold_that_cannot_be_understood_is_set_aside_with_the_graders_reason(tmp_path: Path) -> None:
    rows = [{"problem": "x", "answer": "2"}, {"problem": "y", "answer": "t(0,4]"}]
    found = reading(tmp_path, "\n".join(map(json.dumps, rows)).encode())
    [bad] = found.bad
    assert (bad.line, "does not parse" in bad.reason) == (2, True)


def test_a_type_or_a_profile_that_a_gold_is_not_of_sets_it_aside(tmp_path: Path) -> None:
    rows = [{"problem": "x", "answer": "204"}, {"problem": "y", "answer": "1/2"}, {"problem": "z", "answer": "1234"}]
    content = "\n".join(map(json.dumps, rows)).encode()
    assert [bad.line for bad in reading(tmp_path, content).bad] == []
    integers = reading(tmp_path, content, answer_type="integer")
    assert [bad.line for bad in integers.bad] == [2]
    assert {problem.hints.answer_type for problem in integers.good} == {"integer"}
    aime = read(integers.path, DataSection(train=integers.path), profile="aime")
    assert [bad.line for bad in aime.bad] == [2, 3]
    assert {problem.hints.profile for problem in aime.good} == {"aime"}


def test_golds_of_a_grader_that_judges_no_mathematics_are_taken_as_they_are(tmp_path: Path) -> None:
    golds = ["def f():\n\to = 1\n" * 100, "t(0,4]", "$$", "#### 7", 7]
    rows = [{"problem": f"x{n}", "answer": gold, "is_multiple_answer": True} for n, gold in enumerate(golds)]
    rows += [{"problem": "x4", "answer": "7.0"}, {"problem": "y", "answer": ""}, {"problem": "z", "answer": None}]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read(path, DataSection(train=path), profile=None)
    assert [problem.answer for problem in found.good] == [*(str(gold).strip() for gold in golds)]
    assert [bad.line for bad in found.bad] == [6, 7, 8]


@pytest.mark.parametrize("again", ["What is  1 + 1?", " What is 1+1? ", "What is\n1 + 1 ?", "What is 1 + 1?"])
def test_the_same_problem_but_for_spaces_with_another_answer_is_a_contradiction(again: str, tmp_path: Path) -> None:
    rows = [{"problem": "What is 1 + 1?", "answer": "2"}, {"problem": again, "answer": "3"}]
    found = reading(tmp_path, "\n".join(map(json.dumps, rows)).encode())
    assert [bad.reason for bad in found.bad] == [
        "the problem of train.jsonl:1 again, with another answer: '3' instead of '2'"
    ]


def test_problems_that_differ_by_a_space_between_numbers_are_two(tmp_path: Path) -> None:
    rows = [
        {"problem": "What is 1 1/2 as a decimal?", "answer": "1.5"},
        {"problem": "What is 11/2 as a decimal?", "answer": "5.5"},
    ]
    assert reading(tmp_path, "\n".join(map(json.dumps, rows)).encode()).bad == []


@pytest.mark.parametrize("field", ["problem", "answer", "system"])
def test_a_special_token_in_a_text_is_refused_unless_allowed(field: str, tmp_path: Path) -> None:
    words = {"problem": "1 + 1", "answer": "2", "system": "Be brief."} | {field: "a </think> b"}
    chat = [{"role": "system", "content": words["system"]}, {"role": "user", "content": words["problem"]}]
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"problem": chat, "answer": words["answer"]}))
    tokens = {"<eos>", "</think>", "<|im_end|>"}
    [bad] = read(path, DataSection(train=path), special_tokens=tokens).bad
    assert "holds '</think>', a special token of the model's tokenizer, at 2" in bad.reason
    assert "data.allow_special_tokens" in bad.reason
    allowed = read(path, DataSection(train=path, allow_special_tokens=True), special_tokens=tokens).bad
    assert not any("special token" in bad.reason for bad in allowed)


def test_a_row_of_an_array_is_named_by_its_line_and_known_by_its_number(tmp_path: Path) -> None:
    rows = [*ROWS, {"problem": "x", "answer": ""}]
    found = reading(tmp_path, json.dumps(rows, indent=2).encode(), "train.json")
    assert [problem.key for problem in found.good] == ["train.json:1", "train.json:2"]
    assert [bad.line for bad in found.bad] == [10]
    on_one_line = reading(tmp_path, json.dumps(rows).encode(), "train.json")
    assert [bad.line for bad in on_one_line.bad] == [3]


def test_wrong_keys_are_answered_with_those_that_the_rows_have(tmp_path: Path) -> None:
    found = reading(tmp_path, b'{"prompt": "x", "reward_model": {"ground_truth": "1"}}')
    with pytest.raises(DataError, match=r"rows seem to have 'prompt' and 'reward_model\.ground_truth'"):
        found.require_enough(DataSection(train=found.path), "q")


def test_parquet_is_known_by_its_content_and_numbers_keep_their_digits(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train"
    rows = [
        {"prompt": CHAT, "reward_model": {"ground_truth": 0.1}},
        {"prompt": CHAT, "reward_model": {"ground_truth": 7.0}},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    found = read(path, DataSection(train=path, prompt_key="prompt", answer_key="reward_model.ground_truth"))
    assert [(problem.key, problem.answer) for problem in found.good] == [("train:1", "0.1")]
    assert [(bad.line, "again, with another answer" in bad.reason) for bad in found.bad] == [(2, True)]
