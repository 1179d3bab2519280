"""What befalls a round is a function of the seed: drawn once more it is the same, and every kind has its turn."""

from collections import Counter

import pytest

from egrc_mega.faults import SAVE_POINTS, UPDATE_POINTS
from egrc_mega.soak.causes import CAUSES
from egrc_mega.soak.schedule import GARBAGE, KINDS, MOST_COSTLY, NUM_FAULTS, NUM_STEPS, SAVED_STEPS, Plan, plan

ROUNDS = 60


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [plan(seed, number) for seed in range(3) for number in range(1, ROUNDS + 1)]


def test_a_seed_is_replayed_and_no_two_rounds_or_seeds_are_alike(plans: list[Plan]) -> None:
    assert plans == [plan(seed, number) for seed in range(3) for number in range(1, ROUNDS + 1)]
    assert len({each.faults for each in plans}) == len(plans)


def test_every_kind_befalls_runs_and_every_point_of_a_save_and_an_update_is_struck(plans: list[Plan]) -> None:
    faults = [fault for each in plans for fault in each.faults]
    assert {fault.kind for fault in faults} == {kind.name for kind in KINDS} >= CAUSES.keys()
    assert {fault.point for fault in faults} >= {*SAVE_POINTS, *UPDATE_POINTS}
    assert {fault.detail for fault in faults if fault.kind == "garbage"} == set(GARBAGE)
    assert {(each.servers, each.is_asynchronous, each.goes_on) for each in plans} == {
        (servers, saves, goes_on) for servers in ("own", "external") for saves in (0, 1) for goes_on in (0, 1)
    }


def test_a_round_has_so_many_faults_in_order_and_few_after_which_the_run_is_started_again(plans: list[Plan]) -> None:
    costly = {kind.name for kind in KINDS if kind.is_costly}
    for each in plans:
        steps = [fault.step for fault in each.faults]
        assert len(steps) == NUM_FAULTS and steps == sorted(steps) and set(steps) <= set(range(2, NUM_STEPS + 1))
        kinds = Counter(fault.kind for fault in each.faults)
        assert kinds.most_common(1)[0][1] == 1
        assert sum(count for kind, count in kinds.items() if kind in costly) <= MOST_COSTLY
        assert each.servers == "external" or not kinds.keys() & {"garbage", "lost links"}


def test_what_is_armed_names_point_step_act_and_rank(plans: list[Plan]) -> None:
    faults = {fault.entry: fault for each in plans for fault in each.faults if fault.point}
    for entry, fault in faults.items():
        assert entry.startswith(f"{fault.point}@{fault.step}=") and entry.endswith(f"#{fault.target}")
        if fault.point.startswith("checkpoint."):
            assert fault.step in SAVED_STEPS and (fault.target == 0 or fault.point == "checkpoint.shard")
    assert min(fault.step for each in plans for fault in each.faults if fault.kind == "flip byte") > SAVED_STEPS[0] + 1
    acts = {entry.partition("=")[2].partition("#")[0] for entry in faults}
    assert acts == {"SIGKILL", "SIGSTOP", "ENOSPC", "EIO"}
