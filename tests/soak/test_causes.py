"""Law 3: which causes a round demands to be named."""

import pytest

from egrc_mega.soak.causes import CAUSES, DEADLY, causes_to_be_named
from egrc_mega.soak.schedule import KINDS, Fault

STOP = Fault("stop rank", 3, 1, "policy.forward")
KILL = Fault("kill rank", 2, 0, "checkpoint.pruned")
FULL = Fault("full disk", 2, 0, "checkpoint.shard", "ENOSPC")
HANG = CAUSES["stop rank"]


def test_every_kind_but_pauses_and_ends_of_the_supervisor_has_to_be_named() -> None:
    silent = {kind.name for kind in KINDS} - CAUSES.keys()
    assert silent == {"pause rank", "pause server", "kill supervisor", "terminate"}


@pytest.mark.parametrize("kind", sorted(CAUSES))
def test_what_has_struck_alone_has_to_be_named(kind: str) -> None:
    assert causes_to_be_named({Fault(kind, 2): 5.0}, [1.0], goes_on=False) == [CAUSES[kind]]


@pytest.mark.parametrize("kill_time", [2.9, 3.1])
def test_a_stopped_rank_is_no_hang_where_another_fault_has_ended_its_attempt(kill_time: float) -> None:
    assert causes_to_be_named({STOP: 3.0, KILL: kill_time}, [1.0, 9.0], goes_on=False) == [CAUSES["kill rank"]]


@pytest.mark.parametrize(("kill_time", "second"), [(30.0, 25.0), (2.0, 2.5)])
def test_a_fault_of_another_attempt_excuses_nothing(kill_time: float, second: float) -> None:
    assert HANG in causes_to_be_named({STOP: 3.0, KILL: kill_time}, [second, 1.0], goes_on=False)


@pytest.mark.parametrize("kind", DEADLY)
def test_each_deadly_fault_excuses_the_report(kind: str) -> None:
    assert HANG not in causes_to_be_named({STOP: 3.0, Fault(kind, 3): 4.0}, [1.0], goes_on=True)


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_full_disk_excuses_the_report_only_where_it_ends_the_run(goes_on: bool) -> None:
    assert (HANG in causes_to_be_named({STOP: 3.0, FULL: 4.0}, [1.0], goes_on=goes_on)) == goes_on


@pytest.mark.parametrize("kind", ["kill server", "stop server", "pause rank", "garbage", "lost links"])
def test_what_a_run_survives_excuses_nothing(kind: str) -> None:
    assert HANG in causes_to_be_named({STOP: 3.0, Fault(kind, 3): 4.0}, [1.0], goes_on=False)
