"""The step line: everything the user was promised, plain where there is no terminal."""

import datetime
import io
from pathlib import Path

import pytest
from rich.console import Console

from egrc_mega.errors import RelayedError
from egrc_mega.observe.console import StepPrinter, step_line
from egrc_mega.observe.run_log import noted_end
from egrc_mega.testing.records import make_record


def test_the_line_shows_six_numbers_in_columns_of_80_characters() -> None:
    line = step_line(make_record(3, total=10), eta_s=125.0)
    assert line == "     3/10  acc 50% (0% ungraded)    len    57.0  H 0.350    0.8 s  ETA 2:05"
    large = {"accuracy": 1.0, "ungraded": 1.0, "length": 32768.0, "entropy": 0.00123, "time_step_s": 9999.9}
    widest = step_line(make_record(1234, total=5678, **large), eta_s=360000.0)
    assert len(widest) <= 80, len(widest)
    for column in ("acc", "len", "H ", "ETA"):
        assert widest.index(column) == line.index(column)


def test_a_step_without_numbers_has_dashes_and_its_missing_update_is_told_once_in_a_row() -> None:
    ill = {"updated": False, "loss": None, "grad_norm": None, "accuracy": None, "entropy": None}
    assert "acc - (0% ungraded)" in step_line(make_record(1, **ill), eta_s=0)
    stream = io.StringIO()
    with StepPrinter(9, Console(file=stream, force_terminal=False, soft_wrap=True)) as printer:
        for step, fields in enumerate(({}, ill, ill, {}, ill), 1):
            printer.show(make_record(step, total=9, **fields))
    told = [line for line in stream.getvalue().splitlines() if "no update" in line]
    assert told == [f"step {step}: no update (no sample with an advantage)" for step in (2, 5)]


def test_the_rest_is_a_second_line_where_it_is_asked_for() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=False, soft_wrap=True)
    with StepPrinter(10, console, is_verbose=True) as printer:
        printer.show(make_record(3, total=10))
    first, second = stream.getvalue().splitlines()
    assert first == step_line(make_record(3, total=10), eta_s=7 * 0.78)
    for part in (
        "compress | reward 0.3",
        "H@T1.2 0.4",
        "kept 40% truncated 20%",
        "|g| 0.3 loss 0.01",
        "dlogp 4e-06",
        "9000 tok/s 128 in flight queue 5 lag 1 lost 2 restarts 1 4400-4600 tok/s a server cache 25%",
        "rollout 0.50 grade 0.01 train 0.25 sync 0.02 s",
    ):
        assert part in second, part
    assert second.index("|g|") < second.index("loss")


def test_the_time_that_is_left_has_the_evaluations_that_are_to_come() -> None:
    stream = io.StringIO()
    with StepPrinter(2, Console(file=stream, force_terminal=False, soft_wrap=True)) as printer:
        printer.show(make_record(1, total=2, time_step_s=60.0), 2)
        printer.note_pause(100.0)
        printer.note_pause(200.0)
        printer.show(make_record(1, total=2, time_step_s=60.0), 2)
    assert [line.split("ETA ")[1] for line in stream.getvalue().splitlines()] == ["1:00", "6:00"]


def test_the_log_has_every_line_with_its_time_and_no_escape_whatever_the_terminal(tmp_path: Path) -> None:
    stream, log = io.StringIO(), tmp_path / "run.log"
    log.write_text("before\n")
    console = Console(file=stream, force_terminal=True, width=400, highlight=False)
    with pytest.raises(ValueError, match="ill"), StepPrinter(2, console, log) as printer:
        printer.note("a server said \x1b[2Jred\nand more")
        with printer.bar("evaluating own", 3) as tell:
            tell(2)
        printer.show(make_record(1, total=2))
        raise ValueError("ill \x1b[31m")
    first, *lines = log.read_text().splitlines()
    assert first == "before" and "\x1b" not in log.read_text()
    said = []
    for line in lines:
        moment, _, text = line.partition(" ")
        assert datetime.datetime.fromisoformat(moment).tzinfo is not None
        said.append(text)
    assert said[:2] == ["a server said \\x1b[2Jred", "and more"]
    assert said[2] == step_line(make_record(1, total=2), eta_s=0.78)
    assert said[3:] == ["ended by ValueError: ill \\x1b[31m"]


def test_a_bar_of_what_is_waited_for_is_shown_on_a_terminal_only() -> None:
    shown = {}
    for is_terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=is_terminal, width=100)
        with StepPrinter(2, console) as printer, printer.bar("evaluating own at T 0.6", 4) as tell:
            tell(1)
            if printer._progress:
                printer._progress.refresh()
        shown[is_terminal] = stream.getvalue()
    assert shown[False] == "" and "evaluating own at T 0.6" in shown[True] and "1/4" in shown[True]


def test_what_the_accuracy_of_a_step_leaves_out_stands_in_its_line() -> None:
    assert "(12% ungraded)" in step_line(make_record(1, ungraded=0.12), eta_s=0)


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    stream = io.StringIO()
    with StepPrinter(2, Console(file=stream, force_terminal=False, soft_wrap=True)) as printer:
        printer.show(make_record(1, total=2))
        printer.show(make_record(2, total=2))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "\x1b" not in stream.getvalue()
    assert lines[0].startswith("      1/2  acc ")
    assert lines[1].endswith("ETA 0:00")


def test_on_a_terminal_there_is_a_bar_as_well() -> None:
    stream = io.StringIO()
    with StepPrinter(2, Console(file=stream, force_terminal=True, width=400, highlight=False)) as printer:
        printer.show(make_record(1, total=2))
    assert "1/2  acc 50%" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()


@pytest.mark.parametrize(
    ("rank", "error", "said"),
    [
        ("1", ValueError("no\x1b such"), " rank 1 ended by ValueError: no\\x1b such\n"),
        ("0", ValueError("it says so itself"), ""),
        ("1", RelayedError("what rank 0 has told", exit_code=5), ""),
    ],
)
def test_the_log_has_the_error_of_its_own_that_has_ended_another_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, error: Exception, said: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    for path in (tmp_path / "run.log", tmp_path / "no run" / "run.log"):
        (tmp_path / "run.log").write_text("")
        with pytest.raises(type(error)), noted_end(path):
            raise error
        line = (tmp_path / "run.log").read_text()
        assert line[25:] == (said if path.parent == tmp_path else "")
