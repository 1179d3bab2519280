"""A cell's folder belongs to one configuration, and its result is whole or not there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from egrc_mega.errors import RunError
from egrc_mega.studies.grid import read_study
from egrc_mega.studies.measure import failure_of, training_seconds
from egrc_mega.studies.records import CELL, RESULT, check_folders, read_result, take_folder, write_result
from egrc_mega.testing.results import result

WriteStudy = Callable[..., Path]


def test_another_configuration_of_the_same_name_is_refused_by_field(write_study: WriteStudy) -> None:
    before = read_study(write_study())
    for cell in before.cells:
        take_folder(cell)
    check_folders(read_study(write_study()))
    changed = read_study(write_study({"clip": {"long": {}, "short": {"set": {"stages.compress.clip_len": 41}}}}))
    with pytest.raises(RunError) as caught:
        check_folders(changed)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 and "short-seed1: stages.0.clip_len was 40 and is 41" in lines[0]
    with pytest.raises(RunError, match="short-seed1"):
        take_folder(changed.cells[1])


def test_a_field_that_has_come_since_then_has_its_default_and_is_no_difference(write_study: WriteStudy) -> None:
    study = read_study(write_study())
    for cell in study.cells:
        take_folder(cell)
    path = study.cells[0].folder / CELL
    stored = orjson.loads(path.read_bytes())
    del stored["config"]["observe"], stored["config"]["stages"][0]["shape"]["r"]
    path.write_bytes(orjson.dumps(stored))
    check_folders(study)
    del stored["config"]["stages"][0]["clip_len"]  # its default is another than the study's
    path.write_bytes(orjson.dumps(stored))
    with pytest.raises(RunError, match=r"stages\.0\.clip_len was 4096 and is 72"):
        check_folders(study)


def test_more_settings_and_seeds_are_new_cells(write_study: WriteStudy) -> None:
    for cell in read_study(write_study()).cells:
        take_folder(cell)
    more = {"clip": {"long": {}, "short": {"set": {"stages.compress.clip_len": 40}}, "other": {}}}
    check_folders(read_study(write_study(more, seeds=[1, 2])))


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = replace(result("eg", 3, 0.9, 31.0), failure=None)
    write_result(tmp_path, written)
    assert read_result(tmp_path) == written
    assert read_result(tmp_path / "nowhere") is None


def test_a_torn_result_is_an_error_that_says_what_to_remove(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text('{"setting": "eg"')
    with pytest.raises(RunError, match=r"remove .* to run the cell again"):
        read_result(tmp_path)


def test_the_time_of_a_run_is_that_of_its_parts_without_what_lay_between() -> None:
    events = [
        {"kind": "run", "time": 10.0},
        {"kind": "step", "time": 12.0},
        {"kind": "resume", "time": 100.0},
        {"kind": "end", "time": 103.5},
    ]
    assert training_seconds(events) == 5.5


def test_a_failure_is_told_by_the_runs_own_error_or_else_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("hello\negrc: error: model.path: nothing there\nbye\n")
    assert failure_of(log, 4) == "exit code 4: model.path: nothing there"
    log.write_text("Traceback\nKeyError: 'x'\n\n")
    assert failure_of(log, 1) == "exit code 1: KeyError: 'x'"
    log.write_text("")
    assert failure_of(log, 1) == "exit code 1: it said nothing"
