"""What gzip and parquet make of a small file is bounded, wherever a file is unpacked."""

import gzip
import os
from pathlib import Path

import pytest

from egrc_mega import unpack
from egrc_mega.data.file_source import FileSource, FileSourceSection
from egrc_mega.errors import DataError
from egrc_mega.launch.grade import Question, grade_file

BOMB = gzip.compress(b" " * 2**20)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "SMALL_BYTES", 2**10)


def test_a_bomb_is_given_up_at_its_limit_and_other_files_are_unpacked_whole() -> None:
    with pytest.raises(ValueError, match=rf"its {len(BOMB)} bytes unpack to more than {200 * len(BOMB)}"):
        unpack.unpacked(BOMB)
    text = b'{"prompt": "What is 1 + 1?", "answer": "2"}\n'
    members = gzip.compress(text * 20) + gzip.compress(text)
    assert unpack.unpacked(members) == text * 21


def test_data_and_responses_that_are_bombs_are_refused_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(BOMB)
    with pytest.raises(DataError, match="unpack to more than"):
        list(FileSource(FileSourceSection()).rows(file))
    with pytest.raises(DataError, match="unpack to more than"):
        grade_file(Question("math", "math", False), file, "gold", "response", None, None)


def test_parquet_that_writes_a_value_once_for_many_rows_is_refused_before_it_has_them_all(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is optional")
    parquet = pytest.importorskip("pyarrow.parquet")
    bomb, honest = tmp_path / "bomb.parquet", tmp_path / "honest.parquet"
    parquet.write_table(pyarrow.table({"problem": ["x" * 1000] * 10_000}), bomb)
    parquet.write_table(pyarrow.table({"problem": [f"{number} + 1" for number in range(10_000)]}), honest)
    rows = FileSource(FileSourceSection()).rows(bomb)
    with pytest.raises(DataError, match=rf"bomb.parquet: its {bomb.stat().st_size} bytes unpack to more than"):
        for number, _row in enumerate(rows):
            assert number * 1000 <= 200 * bomb.stat().st_size
    assert len(list(FileSource(FileSourceSection()).rows(honest))) == 10_000


@pytest.mark.parametrize("kind", ["a pipe", "a device", "more than memory"])
def test_what_never_ends_or_fits_into_no_memory_is_refused_in_a_line_and_not_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "rows.jsonl"
    if kind == "a pipe":
        os.mkfifo(file)
    elif kind == "a device":
        file.symlink_to("/dev/zero")
    else:
        file.touch()
        os.truncate(file, 2**42)
    with pytest.raises(DataError, match=r"rows.jsonl"):
        list(FileSource(FileSourceSection()).rows(file))
    with pytest.raises(DataError, match=r"rows.jsonl cannot be read: it (is no regular file|has \d+ bytes)"):
        grade_file(Question("math", "math", False), file, "gold", "response", None, None)
