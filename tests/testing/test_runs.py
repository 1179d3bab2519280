"""Reading the events of a run that goes on."""

from pathlib import Path

import orjson
import pytest

from egrc_mega.testing.runs import events

STEPS = b"".join(b'{"kind":"step","step":%d}\n' % number for number in (1, 2))


@pytest.mark.parametrize("seen", range(len(STEPS) + 1))
def test_a_line_that_is_just_being_written_is_left_for_later(tmp_path: Path, seen: int) -> None:
    """A reader sees a long line's pages one by one: a single write gives no more."""
    (tmp_path / "metrics.jsonl").write_bytes(STEPS[:seen])
    assert [event["step"] for event in events(tmp_path, "step")] == [1, 2][: STEPS[:seen].count(b"\n")]


def test_a_whole_line_that_is_no_event_is_told(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(STEPS[:9] + b"\n" + STEPS)
    with pytest.raises(orjson.JSONDecodeError):
        events(tmp_path, "step")
