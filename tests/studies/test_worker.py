"""Whole studies by the command line: shared, killed, resumed, with a cell that fails."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from egrc_mega.lock import Lock
from egrc_mega.soak.laws import require_same_weights
from egrc_mega.studies import worker
from egrc_mega.studies.grid import read_study
from egrc_mega.studies.records import RESULT, read_result
from egrc_mega.studies.worker import CLAIM
from egrc_mega.testing.forked import popen
from egrc_mega.testing.results import point, result
from egrc_mega.testing.runs import events

pytestmark = pytest.mark.long_file
WriteStudy = Callable[..., Path]


HOLD = """
import sys
from pathlib import Path
from egrc_mega.lock import Lock
lock = Lock.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def start(file: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "study", str(file), *options]
    return popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]", expected: int = 0) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == expected, output
    return output


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def test_two_studies_on_one_folder_never_run_a_cell_twice(write_study: WriteStudy) -> None:
    file = write_study({"clip": {"long": {}, "short": {"set": {"stages.compress.clip_len": 40}}, "again": {}}})
    both = [start(file, "--jobs", "1"), start(file, "--jobs", "1")]
    outputs = [finish(each) for each in both]
    study = read_study(file)
    for cell in study.cells:
        begun = sum(output.count(f"{cell.name}: begins\n") for output in outputs)
        assert begun == 1 and [e["kind"] for e in events(cell.folder / "run", "run")] == ["run"]
        found = read_result(cell.folder)
        assert found is not None and found.failure is None and len(found.curves["step"]) == 2
    assert all((study.section.dir / name).is_file() for name in ("small.html", "small.md", "small.json"))


def test_a_cell_that_somebody_else_holds_is_left_to_them(write_study: WriteStudy) -> None:
    file = write_study()
    held = read_study(file).cells[0]
    held.folder.mkdir(parents=True)
    lock = Lock.take(held.folder / CLAIM)
    assert lock is not None
    try:
        output = finish(start(file))
    finally:
        lock.release()
    assert f"{held.name}: somebody else runs it" in output
    assert "short-seed1: ended" in output and not (held.folder / RESULT).exists()


def test_a_run_that_goes_on_without_its_study_is_left_alone(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "FREE_TIMEOUT_S", 0.3)
    study = read_study(write_study({"clip": {"long": {}}}))
    (cell,) = study.cells
    run = cell.folder / "run"
    run.mkdir(parents=True)
    holder = popen([sys.executable, "-c", HOLD, str(run / ".lock")], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    said: list[str] = []
    try:
        worker.run_cells(study, 1, said.append)
    finally:
        holder.communicate()
    assert said == [f"{cell.name}: its run is still going on, though the study that started it is not"]
    assert not (cell.folder / RESULT).exists()


def test_a_killed_study_goes_on_where_it_was_and_runs_nothing_twice(write_study: WriteStudy, tmp_path: Path) -> None:
    more = {"stages.compress.steps": 2, "stages.explore.steps": 2}
    short = {"set": {"stages.compress.clip_len": 40, **more}}
    file = write_study({"clip": {"long": {"set": more}, "short": short}})
    first, second = read_study(file).cells
    study = start(file, "--jobs", "1")
    second_run = second.folder / "run"
    wait_until(lambda: bool(steps_of(second_run)), "a step of the second cell")
    study.send_signal(signal.SIGKILL)
    study.communicate(timeout=60)
    wait_until(lambda: is_free(second_run), "the end of the run that the study had started")
    done = (first.folder / RESULT).stat().st_mtime_ns
    assert not (second.folder / RESULT).exists()
    output = finish(start(file, "--jobs", "1"))
    assert f"{second.name}: goes on" in output and f"{first.name}:" not in output
    assert (first.folder / RESULT).stat().st_mtime_ns == done
    assert [event["kind"] for event in events(second_run, "resume")] == ["resume"]
    assert sorted({step["step"] for step in events(second_run, "step")}) == [1, 2, 3, 4]
    # the base is measured by the first cell alone
    assert events(first.folder / "run", "evaluation")[0]["kept_from"] is None
    assert events(second_run, "evaluation")[0]["kept_from"] == "base"
    twin = tmp_path / "twin"
    finish(start(write_study({"clip": {"short": short}}, dir=str(twin))))
    require_same_weights(second_run, twin / "cells/short-seed1/run")


def steps_of(run: Path) -> list[dict[str, object]]:
    return events(run, "step") if (run / "metrics.jsonl").exists() else []


def is_free(run: Path) -> bool:
    lock = Lock.take(run / ".lock")
    if lock:
        lock.release()
    return lock is not None


def test_a_cell_that_fails_is_shown_with_its_reason_and_stops_nobody(write_study: WriteStudy, tmp_path: Path) -> None:
    axes = {"model": {"gone": {"set": {"model.path": "gone"}}, "here": {}}}
    file = write_study(axes)
    output = finish(start(file, "--jobs", "1"), expected=7)
    gone, here = read_study(file).cells
    failure = read_result(gone.folder)
    assert failure is not None and failure.failure is not None and "gone is not a folder" in failure.failure
    assert "here-seed1: ended" in output
    assert "egrc: error: 1 of 2 cells failed (gone, seed 1)" in output
    assert "gone is not a folder" in (tmp_path / "study/small.html").read_text()
    # a failed cell is not run again unasked
    assert "begins" not in finish(start(file), expected=7)
    assert "gone-seed1: begins" in finish(start(file, "--retry-failed"), expected=7)
    assert read_result(here.folder) is not None


def test_a_cell_that_takes_too_long_is_ended_and_has_failed(write_study: WriteStudy) -> None:
    file = write_study({"clip": {"long": {}}}, cell_timeout_s=0.5)
    finish(start(file), expected=7)
    failure = read_result(read_study(file).cells[0].folder)
    assert failure is not None and failure.failure == "it ran for more than cell_timeout_s = 0.5 s"


def test_a_report_runs_nothing(write_study: WriteStudy) -> None:
    file = write_study()
    output = finish(start(file, "--report"))
    assert output.count("not run yet") == 2 and not (read_study(file).section.dir / "cells").exists()


def test_a_changed_setting_is_refused_before_anything_runs(write_study: WriteStudy) -> None:
    file = write_study({"clip": {"long": {}}})
    finish(start(file))
    output = finish(start(write_study({"clip": {"long": {"set": {"stages.compress.clip_len": 50}}}})), expected=7)
    assert "long-seed1: stages.0.clip_len was 72 and is 50" in output and "begins" not in output


def test_the_line_of_a_cell_that_has_ended_says_how_many_responses_its_accuracy_leaves_out() -> None:
    points = [point("base", 0, 0.5, 100.0), point("end", 1, 0.875, 30.25) | {"num_ungraded": 3}]
    line = worker._why(result("long", 1, 0.9, 30.0, points=points))
    assert line == ": accuracy 87.5 % (3 of 8 ungraded), 30.2 tokens at T 1"
