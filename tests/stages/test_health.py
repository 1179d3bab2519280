"""Alarms: what raises each, that it is told once while its cause goes on, and that healthy curves raise none."""

from collections.abc import Sequence
from typing import Any

import pytest

from egrc_mega.sections.health import HealthSection
from egrc_mega.stages.health import Health, follow
from egrc_mega.testing.records import make_record

SECTION = HealthSection(window=2)


def told(records: Sequence[dict[str, Any]], section: HealthSection = SECTION, bound: float = 1e-4) -> list[Any]:
    """(step, name) of every alarm, steps from 1; the state goes through JSON as in a checkpoint."""
    health, found = Health(), []
    for step, record in enumerate(records, 1):
        health, alarms = follow(health, section, make_record(step, no_answer=0.0) | record, bound)
        health = Health.model_validate_json(health.model_dump_json())
        found += [(step, alarm.name) for alarm in alarms]
    return found


def texts(records: Sequence[dict[str, Any]], section: HealthSection = SECTION) -> list[str]:
    health, found = Health(), []
    for record in records:
        health, alarms = follow(health, section, make_record(1, no_answer=0.0) | record, 1e-4)
        found += [alarm.text for alarm in alarms]
    return found


@pytest.mark.parametrize(
    ("name", "ill", "well", "steps"),
    [
        ("no_update", {"updated": False}, {"updated": True}, 5),
        ("truncated", {"truncated": 1.0}, {"truncated": 0.99}, 3),
        ("no_answer", {"no_answer": 0.98}, {"no_answer": 0.97}, 3),
    ],
)
def test_an_alarm_of_steps_in_a_row_is_told_once_and_again_when_it_comes_back(
    name: str, ill: dict[str, Any], well: dict[str, Any], steps: int
) -> None:
    assert told([ill] * (steps - 1) + [well] + [ill] * (steps - 1)) == []
    assert told([well] + [ill] * (steps + 9) + [well] + [ill] * steps) == [(1 + steps, name), (11 + 2 * steps, name)]


@pytest.mark.parametrize(("name", "field"), [("length_collapse", "length"), ("entropy_collapse", "entropy")])
def test_a_collapse_is_a_mean_below_a_tenth_of_the_highest_of_the_run(name: str, field: str) -> None:
    assert told([{field: value} for value in (100.0, 100.0, 20.0, 11.0, 10.0, 10.0)]) == []
    assert told([{field: value} for value in (100.0, 100.0, 50.0, 9.0, 9.0, 9.0, 90.0, 9.0, 9.0)]) == [
        (5, name),
        (9, name),
    ]
    # a single step says nothing, nor does what was not measured
    assert told([{field: value} for value in (100.0, 100.0, 1.0, 100.0, None, None, None)]) == []


def test_a_mismatch_that_has_grown_tenfold_and_is_no_rounding_is_an_alarm() -> None:
    def medians(*values: float) -> list[dict[str, Any]]:
        return [{"logprob_diff_median": value} for value in values]

    assert told(medians(1e-6, 1e-6, 9e-6, 9e-6, 9e-6)) == []
    assert told(medians(2e-6, 2e-6, 2.1e-5, 2.1e-5, 2.1e-5)) == [(4, "mismatch")]
    # a tenth of the bound is the least
    assert told(medians(1e-8, 1e-8, 9e-6, 9e-6)) == []


def test_a_divergence_that_has_grown_tenfold_since_the_first_steps_is_an_alarm() -> None:
    def divergences(*values: float | None) -> list[dict[str, Any]]:
        return [{"mismatch_kl": value} for value in values]

    # against the first full window, 0.002, not against the lowest that came later, and not against a high one between
    assert told(divergences(0.001, 0.003, 0.0005, 0.0005, 0.019, 0.02)) == []
    assert told(divergences(0.001, 0.003, 0.021, 0.021, 0.0, 0.0, None, 0.03, 0.03)) == [
        (4, "mismatch_grows"),
        (9, "mismatch_grows"),
    ]
    # below a hundredth of a nat it is rounding, whatever it has grown from; a single step says nothing
    assert told(divergences(1e-9, 1e-9, 0.009, 0.009, 0.0099)) == []
    assert told(divergences(1e-9, 1e-9, 0.0101, 0.0101)) == [(4, "mismatch_grows")]
    assert told(divergences(0.001, 0.001, 0.018, 0.001)) == []
    # a run that is far apart from the beginning, as one on old tokens may be, has that as its measure
    assert told(divergences(0.05, 0.05, 0.3, 0.3)) == []


def test_an_alarm_says_value_bound_and_remedy() -> None:
    [no_update] = texts([{"updated": False}] * 5)
    assert no_update.startswith("no update for 5 steps (health.no_update_steps = 5): ") and "clip_len" in no_update
    [length] = texts([{"length": value} for value in (100.0, 100.0, 5.0, 5.0)])
    assert "length 5 is 5.0% of its highest 100 (health.length_share = 0.1" in length and "learning rate" in length
    [mismatch] = texts([{"logprob_diff_median": value} for value in (1e-6, 1e-6, 5e-5, 5e-5)])
    assert "by 2.55e-05 in" in mismatch and "bound 0.0001" in mismatch and "sync.verify_every" in mismatch


def test_a_grown_divergence_is_told_with_the_effective_sample_size_and_the_remedies() -> None:
    [text] = texts([{"mismatch_kl": value, "ess_tokens": 0.25} for value in (0.002, 0.002, 0.05, 0.05)])
    assert "by 0.026 nats a token (mismatch_kl), and did by 0.002 in" in text and "ess_tokens 0.25" in text
    assert "health.mismatch_growth = 10, means over 2 steps" in text and "sequence_mask" in text
    assert "learning rate" in text


def test_an_alarm_that_is_switched_off_is_never_told() -> None:
    off: dict[str, Any] = {"no_update_steps": None, "truncated_steps": None, "no_answer_steps": None}
    off |= {"length_share": None, "entropy_share": None, "mismatch_factor": None, "mismatch_growth": None, "window": 2}
    ill = {
        "updated": False,
        "truncated": 1.0,
        "no_answer": 1.0,
        "length": 1.0,
        "entropy": 0.0,
        "logprob_diff_median": 1.0,
        "mismatch_kl": 1.0,
    }
    well = {"logprob_diff_median": 1e-9, "mismatch_kl": 1e-9}
    assert len(told([well] * 2 + [ill] * 9)) == 7
    assert told([well] * 2 + [ill] * 9, HealthSection(**off)) == []


def test_the_miniatures_curves_raise_no_alarm() -> None:
    """Of the quickstart: shorter to 28 %, entropy down to a half, at first two thirds are cut."""
    compress = [
        {"length": 65 - 0.7 * i, "entropy": 0.35 - 0.0035 * i, "truncated": max(0, 0.67 - i / 40)} for i in range(50)
    ]
    explore = [{"length": 31.0 + i % 5, "entropy": 0.18, "truncated": 0.0} for i in range(60)]
    health = [step | {"no_answer": step["truncated"], "logprob_diff_median": 1.2e-7} for step in [*compress, *explore]]
    assert told(health, HealthSection()) == []
    # sampled asynchronously it trains on tokens of up to two steps before: 1e-4 nats a token in the first 28 steps
    measured = (0, 5.2, 6.2, 3.5, 6.9, 4.3, 4.7, 6.5, 8.2, 7.2, 9.0, 7.1, 11, 7.7, 7.3, 2.4, 5.8, 11, 5.5, 8.4, 11, 4.9)
    assert (
        told([{"mismatch_kl": 1e-4 * value} for value in (*measured, 3.9, 13, 6.2, 6.8, 7.9, 8.8)], HealthSection())
        == []
    )
