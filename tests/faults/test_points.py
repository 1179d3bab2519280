"""Fault points: nothing unless they are armed, and once each where that is asked for."""

import os
from pathlib import Path

import pytest

from egrc_mega.faults import ONCE, VARIABLE, fault_point


def test_an_armed_point_fails_at_its_step_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    fault_point("checkpoint.shard", 4)
    monkeypatch.setenv(VARIABLE, "checkpoint.shard@4=ENOSPC")
    fault_point("checkpoint.shard", 3)
    fault_point("checkpoint.begun", 4)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            fault_point("checkpoint.shard", 4)


def test_where_each_is_to_strike_once_it_leaves_the_number_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = ["checkpoint.shard@4=EIO#0", "checkpoint.shard@6=EIO#0"]
    monkeypatch.setenv(VARIABLE, ",".join(entries))
    monkeypatch.setenv(ONCE, str(tmp_path))
    for step, entry in zip((4, 6), entries, strict=True):
        assert not (tmp_path / entry).exists()
        with pytest.raises(OSError, match="Input/output"):
            fault_point("checkpoint.shard", step)
        assert int((tmp_path / entry).read_text()) == os.getpid()
        fault_point("checkpoint.shard", step)
