"""metrics.jsonl survives kills; a resumed step counts once."""

from pathlib import Path

from egrc_mega.observe.events import EventLog, read_events, read_steps


def test_a_torn_last_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with EventLog(path) as log:
        log.write("step", step=1, loss=0.5)
    path.write_bytes(path.read_bytes() + b'{"kind":"step","step":2,"lo')
    with EventLog(path) as log:
        log.write("step", step=2, loss=0.25)
    assert [event["step"] for event in read_events(path)] == [1, 2]


def test_the_later_of_two_records_of_a_step_counts_and_steps_are_in_order(tmp_path: Path) -> None:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        for step, loss in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.22)):
            log.write("step", step=step, loss=loss)
        log.write("evaluation", point="base")
    assert [(s["step"], s["loss"]) for s in read_steps(tmp_path / "metrics.jsonl")] == [(1, 0.1), (2, 0.22), (3, 0.3)]


def test_values_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("step", step=1, loss=float("nan"), grad_norm=float("inf"))
    [event] = read_events(tmp_path / "metrics.jsonl")
    assert (event["loss"], event["grad_norm"]) == (None, None)
