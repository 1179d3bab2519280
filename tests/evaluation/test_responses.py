"""Responses that somebody has sampled: whatever their file looks like, one row is held at a time."""

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egrc_mega.errors import DataError, RunError
from egrc_mega.evaluation import json_stream
from egrc_mega.evaluation.json_stream import stream_rows
from egrc_mega.evaluation.layouts import id_of_text, sampled_responses
from egrc_mega.observe.rollouts import RolloutLog, step_path
from egrc_mega.testing.rollouts import make_stored_group, make_stored_sample
from egrc_mega.types import Grade

ODD = 'a "quoted" \\ {brace] \n\n 木 \\u0000 \\\\"'


def row(**changes: Any) -> dict[str, Any]:
    fields = {
        "problem": "1 + 1 = ?",
        "target_answer": 2.0,
        "completion": "It is </think> \\boxed{2}",
        "output_length": 9,
        "pass_or_fail": True,
    }
    return fields | changes


def written(path: Path, rows: list[dict[str, Any]], form: str) -> Path:
    texts = {
        "array": json.dumps(rows, indent=2),
        "one_line": json.dumps(rows),
        "jsonl": "\n".join(json.dumps(each) for each in rows) + "\n",
        "pretty": "\n".join(json.dumps(each, indent=1) for each in rows),
        "raw_letters": json.dumps(rows, ensure_ascii=False),
        "byte_order_mark": "\ufeff" + json.dumps(rows),
        "joined": "\n\ufeff".join(json.dumps(each) for each in rows),
    }
    content = texts[form.removesuffix(".gz")].encode()
    path.write_bytes(gzip.compress(content) if form.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("chunk", [1, 3, 7, 64, 2**20])
@pytest.mark.parametrize(
    "form", ["array", "one_line", "jsonl", "pretty", "raw_letters", "byte_order_mark", "joined", "array.gz", "jsonl.gz"]
)
def test_rows_are_the_same_in_every_form_and_at_every_cut(
    form: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    rows = [row(completion=ODD * i) for i in range(4)]
    path = written(tmp_path / "rows.json", rows, form)
    assert [json.loads(each.content) for each in stream_rows(path)] == rows


def test_a_cut_may_fall_on_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An escape, a letter of several bytes and a byte order mark may be cut in two."""
    path = tmp_path / "rows.json"
    for content in (json.dumps([{"a": "{\\"}, {"b": '["木'}], ensure_ascii=False), '{"a": "\\\\"}\n\ufeff{"b": "]"}'):
        path.write_text(content)
        whole = [json.loads(each.content) for each in stream_rows(path)]
        assert len(whole) == 2
        for size in range(1, len(content.encode()) + 1):
            monkeypatch.setattr(json_stream, "CHUNK_BYTES", size)
            assert [json.loads(each.content) for each in stream_rows(path)] == whole, size


def test_a_row_knows_its_number_and_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.json", [row(), row()], "array")
    assert [(each.number, each.line) for each in stream_rows(path)] == [(1, 2), (2, 9)]


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(" [ ] \n")
    assert list(stream_rows(tmp_path / "rows.json")) == []


def test_shorterbetters_fields_become_a_response(tmp_path: Path) -> None:
    [found] = sampled_responses(written(tmp_path / "rows.json", [row()], "array"))
    assert (found.prompt, found.text) == ("1 + 1 = ?", "It is </think> \\boxed{2}")
    assert found.problem_id == id_of_text("1 + 1 = ?\n")
    assert (found.gold, found.verdict, found.length, found.truncated) == ("2", Grade.RIGHT, 9, None)
    assert found.prompt_thinks
    assert found.place == f"{tmp_path / 'rows.json'}, row 1"


def test_what_a_row_does_not_state_is_none(tmp_path: Path) -> None:
    stated = row(target_answer=None, pass_or_fail=None, completion="")
    del stated["output_length"]
    [found] = sampled_responses(written(tmp_path / "rows.json", [stated], "array"))
    assert (found.gold, found.verdict, found.length, found.text) == (None, None, None, "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    right, wrong = make_stored_sample(3, text="a"), make_stored_sample(5, text="b", grade="wrong", truncated=True)
    with RolloutLog(tmp_path / "run" / "rollouts", 2**20) as log:
        log.write(1, "compress", [make_stored_group(right, wrong, key="train.jsonl:7")])
        log.write(2, "explore", [make_stored_group(right, key="train.jsonl:8")])
    return tmp_path / "run"


def test_a_rollout_file_is_read_with_its_tokens(run: Path) -> None:
    right, wrong = sampled_responses(step_path(run / "rollouts", 1))
    assert (right.text, right.verdict, right.length, right.truncated) == ("a", Grade.RIGHT, 3, False)
    assert (wrong.text, wrong.verdict, wrong.length, wrong.truncated) == ("b", Grade.WRONG, 5, True)
    assert right.output_ids is not None
    assert right.sampled is not None
    assert right.sampled.tolist() == [True, False, True]
    assert np.array_equal(right.output_ids, np.arange(3) + 100_000)
    assert right.problem_id == wrong.problem_id == "train.jsonl:7"


def test_a_runs_folder_gives_all_its_steps(run: Path) -> None:
    assert [each.problem_id for each in sampled_responses(run)] == ["train.jsonl:7", "train.jsonl:7", "train.jsonl:8"]


def test_a_file_larger_than_the_memory_may_be_is_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gzip file of some kilobytes that unpacks to 40 MB; a chunk and a row are held, and their copies."""
    path = tmp_path / "large.json.gz"
    one = json.dumps(row(completion="Wait, no. " * 20_000)).encode()
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"[" + b",".join([one] * 5))
        for _ in range(39):
            file.write(b"," + b",".join([one] * 5))
        file.write(b"]")
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 2**16)
    tracemalloc.start()
    count = sum(1 for _response in sampled_responses(path))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 200
    assert peak < 5_000_000


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "holds no responses"),
    "blank": (b" \n\t", "holds no responses"),
    "empty array": (b"[]", "holds no responses"),
    "a list of numbers": (b"[1, 2]", "an object { is expected"),
    "text": (b"hello", "an object { is expected"),
    "not ended": (b'[{"problem": "x"', "the file ends within it"),
    "string not ended": (b'{"problem": "x\\', "the file ends within it"),
    "array not ended": (json.dumps([row()]).encode()[:-1], "its ] is missing"),
    "no comma": (json.dumps(row()).encode().join([b"[", b" ", b"]"]), "a comma"),
    "more after the array": (json.dumps([row()]).encode() + b"{}", "after the array's ]"),
    "wrong brackets": (b'{"problem": [}', "not JSON"),
    "not UTF-8": (json.dumps(row(problem="@")).encode().replace(b"@", b"\xff"), "not UTF-8: byte 0xff"),
    "no known layout": (b'{"prompt": 1}', "of no known layout"),
    "field missing": (json.dumps([row(), {"problem": "x"}]).encode(), "row 2 (line 1): field 'completion' is missing"),
    "text is a number": (json.dumps([row(completion=7)]).encode(), "'completion' must be a text, found 7"),
    "length is a fraction": (json.dumps([row(output_length=1.5)]).encode(), "'output_length' must be a whole number"),
    "length is negative": (json.dumps([row(output_length=-1)]).encode(), "'output_length' must be a whole number"),
    "verdict is a text": (json.dumps([row(pass_or_fail="yes")]).encode(), "'pass_or_fail' must be true or false"),
    "torn gzip": (gzip.compress(b"[" + b" " * 1000)[:-6], "not a whole gzip file"),
    "no gzip": (b"\x1f\x8bhello", "not a whole gzip file"),
    "deep": (b'{"problem":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_read_is_refused_in_one_line_that_names_file_and_fault(case: str, tmp_path: Path) -> None:
    content, fault = HOSTILE[case]
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(sampled_responses(path))
    assert str(path) in str(caught.value)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_that_never_ends_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "MAX_ROW_BYTES", 2**20)
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 2**16)
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(b'{"problem": "' + b"x" * 50_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="more than 1 MiB, or never ends"):
        list(stream_rows(path))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


PLACES: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "nothing there": (lambda folder: folder / "none.json", DataError, "cannot be read: No such file"),
    "no run": (lambda folder: folder, RunError, "holds no rollouts"),
    "no rollout file": (lambda folder: folder / "model.safetensors", DataError, "is no rollout file of a run"),
    "a step that is gone": (lambda folder: step_path(folder / "rollouts", 9), RunError, "does not exist"),
    "a device": (lambda folder: Path("/dev/null"), DataError, "is no file"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_without_responses_is_refused(case: str, tmp_path: Path) -> None:
    place, kind, fault = PLACES[case]
    with pytest.raises(kind, match=fault):
        list(sampled_responses(place(tmp_path)))


def test_rows_before_a_broken_one_have_been_given(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row()) + "\n{\n")
    responses: Iterator[Any] = sampled_responses(path)
    assert len(list(islice(responses, 1))) == 1
    with pytest.raises(DataError, match=r"row 2 \(line 2\)"):
        next(responses)
