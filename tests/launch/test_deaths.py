"""When a run that has died is started again: by its exit codes, its steps and the clock."""

import pytest

from egrc_mega.launch.deaths import Death, judge
from egrc_mega.sections.supervisor import SupervisorSection

RULES = SupervisorSection(max_restarts=4, restart_window_s=100, max_same_step=3, backoff_s=2, max_backoff_s=5)


def deaths(*steps: int, code: int = -9, every_s: float = 1.0) -> list[Death]:
    return [Death(code, step, moment=every_s * i) for i, step in enumerate(steps)]


def test_a_first_death_is_followed_by_a_restart_that_says_step_and_cause() -> None:
    verdict = judge(deaths(7), RULES)
    assert (verdict.wait_s, verdict.reason) == (2, "signal 9 in step 8")
    assert judge(deaths(0, code=5), RULES).reason == "exit code 5 in step 1"


@pytest.mark.parametrize("code", [2, 3, 4, 7, 10, 12])
def test_what_the_user_must_change_is_not_started_again(code: int) -> None:
    verdict = judge(deaths(3, code=code), RULES)
    assert verdict.wait_s is None and verdict.reason == f"exit code {code} is nothing that a restart mends"


@pytest.mark.parametrize("code", [1, 5, 6, 8, 9, 11, -6, -11])
def test_other_deaths_may_be_bad_luck(code: int) -> None:
    assert judge(deaths(3, code=code), RULES).wait_s is not None


def test_three_deaths_in_one_step_are_no_bad_luck() -> None:
    assert judge(deaths(7, 7), RULES).wait_s is not None
    verdict = judge(deaths(2, 7, 7, 7), RULES)
    assert verdict.wait_s is None
    assert verdict.reason == (
        "it has died 3 times in step 8 (supervisor.max_same_step), last with signal 9: that is no bad luck"
    )


def test_a_death_elsewhere_begins_the_count_anew() -> None:
    assert judge(deaths(7, 7, 8), RULES).wait_s is not None
    assert judge(deaths(7, 7, 6), RULES).wait_s is not None  # from an older checkpoint: another step has failed
    assert judge(deaths(7, 8, 7, 8), RULES).wait_s is not None


def test_the_wait_doubles_while_no_step_is_gained_up_to_its_limit() -> None:
    patient = RULES.model_copy(update={"max_same_step": 9, "max_restarts": 9})
    assert [judge(deaths(*[7] * n), patient).wait_s for n in (1, 2, 3, 4)] == [2, 4, 5, 5]
    assert judge(deaths(7, 7, 8), patient).wait_s == 2


def test_the_budget_counts_deaths_of_the_window_only() -> None:
    assert judge(deaths(1, 2, 3, 4), RULES).wait_s is not None
    verdict = judge(deaths(1, 2, 3, 4, 5), RULES)
    assert verdict.wait_s is None
    assert verdict.reason == (
        "4 restarts within 100 s (supervisor.max_restarts) are used up; it died last in step 6 with signal 9"
    )
    assert judge(deaths(1, 2, 3, 4, 5, every_s=25), RULES).wait_s is not None  # the first is 100 s ago


def test_without_a_budget_the_first_death_is_the_last() -> None:
    assert judge(deaths(1), RULES.model_copy(update={"max_restarts": 0})).wait_s is None
