"""torchrun's report of a rank that has failed: nothing where the rank has said why, and one line where it has not."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from egrc_mega import relay
from egrc_mega.errors import DataError
from egrc_mega.launch import agent
from egrc_mega.parent import LAUNCHER

LOGGER = logging.getLogger("torch.distributed.elastic.multiprocessing.api")


def passes(logger: logging.Logger) -> list[bool]:
    """Whether each of torch's handlers would write a record: to what, pytest has decided when torch was imported."""
    record = logger.makeRecord(logger.name, logging.ERROR, "", 0, "x", (), None)
    return [bool(handler.filter(record)) for handler in agent.torch_handlers()]


@pytest.fixture
def end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Ends the agent as torchrun does when ranks have ended with codes, rank 3 first, and returns the agent's own."""
    monkeypatch.setenv(relay.VARIABLE, str(tmp_path / "error.json"))
    monkeypatch.setenv(LAUNCHER, "")

    def run(exit_code: int, other: int | None = None, later_s: int = 0) -> int:
        failures = {3: ProcessFailure(local_rank=1, pid=123, exitcode=exit_code, error_file="<N/A>")}
        if other is not None:
            failures[2] = ProcessFailure(local_rank=0, pid=122, exitcode=other, error_file="<N/A>")
            failures[2].timestamp = failures[3].timestamp + later_s

        def torchrun() -> None:
            LOGGER.error("failed")
            raise ChildFailedError("egrc_mega.train", failures)

        monkeypatch.setattr(agent, "torchrun", torchrun)
        with pytest.raises(SystemExit) as ended:
            agent.main()
        return int(ended.value.code or 0)

    before = {handler: list(handler.filters) for handler in agent.torch_handlers()}
    assert before, "torch writes its log lines somewhere"
    yield run
    for handler, filters in before.items():
        handler.filters = filters


@pytest.mark.parametrize(("other", "later_s"), [(None, 0), (-15, 1), (-9, 30)])
def test_of_a_rank_that_has_said_why_it_ends_torchrun_says_nothing_whatever_it_does_to_the_others(
    end: Callable[..., int], other: int | None, later_s: int, capfd: pytest.CaptureFixture[str]
) -> None:
    relay.report_error(DataError("no such data"))
    assert end(3, other, later_s) == 1
    assert capfd.readouterr().err == ""
    assert not any(passes(LOGGER))
    assert all(passes(logging.getLogger("torch.distributed.checkpoint")))


@pytest.mark.parametrize("later_s", [-1, 0, 2])
def test_a_rank_that_was_killed_is_told_whatever_the_others_have_said_of_it(
    end: Callable[..., int], later_s: int, capfd: pytest.CaptureFixture[str]
) -> None:
    relay.report_error(DataError("the connection has gone"))
    assert end(1, -9, later_s) == 1
    assert capfd.readouterr().err.startswith("egrc: error: rank 2 (process 122 of this node) was killed by SIGKILL; ")


@pytest.mark.parametrize(("code", "cause"), [(-9, "was killed by SIGKILL"), (1, "ended with exit code 1")])
def test_a_rank_that_has_ended_without_a_word_is_one_line(
    end: Callable[..., int], code: int, cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert end(code) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("egrc")]
    assert lines == [
        f"egrc: error: rank 3 (process 123 of this node) {cause}; what it wrote before stands above, if anything"
    ]
    assert all(passes(LOGGER))
