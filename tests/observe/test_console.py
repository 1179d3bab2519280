"""The step line: everything the user was promised, plain where there is no terminal."""

import io

from rich.console import Console

from egrc_mega.observe.console import StepPrinter, step_line
from egrc_mega.testing.records import make_record


def test_the_line_shows_what_a_user_watches() -> None:
    line = step_line(make_record(3, total=10), eta_s=125.0)
    for part in (
        "3/10 compress",
        "reward 0.3",
        "acc 50%",
        "len 57.0",
        "H 0.35",
        "H@T1.2 0.4",
        "kept 40% ungraded 0% truncated 20%",
        "|g| 0.3 loss 0.01",
        "dlogp 4e-06",
        "9000 tok/s 128 in flight queue 5 lag 1 lost 2 restarts 1 4400-4600 tok/s a server cache 25%",
        "rollout 0.50 grade 0.01 train 0.25 sync 0.02 s",
        "ETA 2:05",
    ):
        assert part in line, part
    assert line.index("|g|") < line.index("loss")


def test_a_step_without_an_update_says_so() -> None:
    record = make_record(1, updated=False, loss=None, grad_norm=None, accuracy=None, entropy=None)
    line = step_line(record, eta_s=0)
    assert "no update (no sample with an advantage)" in line
    assert "acc - " in line


def test_what_the_accuracy_of_a_step_leaves_out_stands_in_its_line() -> None:
    assert "ungraded 12% " in step_line(make_record(1, ungraded=0.12), eta_s=0)


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    stream = io.StringIO()
    with StepPrinter(2, Console(file=stream, force_terminal=False, soft_wrap=True)) as printer:
        printer.show(make_record(1, total=2))
        printer.show(make_record(2, total=2))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "\x1b" not in stream.getvalue()
    assert lines[0].startswith("1/2 compress")
    assert lines[1].endswith("ETA 0:00")


def test_on_a_terminal_there_is_a_bar_as_well() -> None:
    stream = io.StringIO()
    with StepPrinter(2, Console(file=stream, force_terminal=True, width=400, highlight=False)) as printer:
        printer.show(make_record(1, total=2))
    assert "1/2 compress" in stream.getvalue()
    assert "\x1b[" in stream.getvalue()
