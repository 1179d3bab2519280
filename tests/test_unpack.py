"""What gzip makes of a small file is bounded, wherever a whole file is unpacked."""

import gzip
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
