"""The log-prob gate: what of a distribution stops a run, and that a gate with nothing to compare says so."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from egrc_mega.errors import PolicyError
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.sections.policy import PolicySection
from egrc_mega.testing.records import make_record
from egrc_mega.testing.samples import make_mask, make_train_sample
from egrc_mega.training.gate import GateWatch, LogprobGate
from egrc_mega.types import TrainSample

SIZE = 1000


def sample(differences: np.ndarray, compared: bool = True) -> TrainSample:
    """Its server's log-probs are off by `differences` from a trainer that says -1 everywhere."""
    size = len(differences)
    return make_train_sample(
        (1,),
        np.full(size, 7),
        sampled=np.ones(size),
        loss_weights=np.zeros(size),
        advantages=0.0,
        rollout_logprobs=-1 + differences,
        compared=np.full(size, compared),
    )


def compare(gate: LogprobGate, *samples: TrainSample) -> None:
    trainer = torch.full((sum(len(s.output_ids) for s in samples),), -1.0)
    gate.compare(samples, TokenStats(trainer, trainer, trainer))


def spread(median: float, p99: float, largest: float, size: int = SIZE) -> np.ndarray:
    """Differences with these figures."""
    values = np.full(size, median)
    values[-size // 20 :] = p99
    values[-1] = largest
    return values * np.where(np.arange(size) % 2, 1, -1)


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        (spread(0.03, 0.1, 0.2), r"differ by 0\.03 in the median, more than policy\.logprob_median_bound = 0\.02"),
        (spread(0.01, 0.3, 0.5), r"differ by 0\.3 at the 99th percentile, more than policy\.logprob_p99_bound = 0\.2"),
        (spread(0.01, 0.1, 2.5), r"differ by 2\.5, more than policy\.logprob_bound = 2:"),
        (spread(0.01, 0.1, np.nan), r"differ by nan, more than policy\.logprob_bound = 2:"),
    ],
    ids=["median", "99th percentile", "maximum", "NaN"],
)
def test_each_figure_of_the_distribution_stops_the_run_on_its_own(differences: np.ndarray, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        compare(LogprobGate(PolicySection(), torch.bfloat16), sample(differences))


def test_the_noise_of_bf16_passes_bf16s_bounds_and_not_those_of_fp32() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-2, SIZE)
    compare(LogprobGate(PolicySection(), torch.bfloat16), sample(noise))
    with pytest.raises(PolicyError):
        compare(LogprobGate(PolicySection(), torch.float32), sample(noise))


def test_bounds_that_are_given_go_before_those_of_the_precision() -> None:
    section = PolicySection(logprob_median_bound=0.5, logprob_p99_bound=0.6, logprob_bound=0.7)
    gate = LogprobGate(section, torch.float32)
    compare(gate, sample(spread(0.4, 0.55, 0.65)))
    with pytest.raises(PolicyError):
        compare(gate, sample(spread(0.4, 0.55, 0.75)))


def test_a_few_tokens_are_no_distribution() -> None:
    few = spread(0.03, 0.3, 0.3, size=100)
    gate = LogprobGate(PolicySection(), torch.bfloat16)
    compare(gate, sample(few))
    with pytest.raises(PolicyError, match=r"in the median|99th percentile"):
        # what the parts of a step compare is put together
        compare(gate, sample(np.tile(few, 2)))


def certain(size: int, differences: float = 0.0) -> TrainSample:
    """Tokens that were drawn from themselves alone."""
    return replace(sample(np.full(size, differences)), sampling_mask=make_mask([[7]] * size))


def test_tokens_that_were_certain_hide_no_difference_and_count_as_none_that_could_be_compared() -> None:
    gate = LogprobGate(PolicySection(), torch.bfloat16)
    drawn = replace(sample(spread(0.03, 0.1, 0.2)), sampling_mask=make_mask([[7, 8]] * SIZE))
    with pytest.raises(PolicyError, match=r"differ by 0\.03 in the median"):
        compare(gate, certain(5 * SIZE), drawn)
    assert gate.metrics()["logprob_diff_median"] == pytest.approx(0.03)
    compare(gate := LogprobGate(PolicySection(), torch.bfloat16), certain(300), sample(np.full(300, 0.01)))
    assert gate.metrics()["logprob_compared"] == 1.0
    compare(gate := LogprobGate(PolicySection(), torch.bfloat16), certain(300))
    assert gate.metrics()["logprob_compared"] is None


def test_a_server_that_says_otherwise_of_a_token_that_was_certain_is_told() -> None:
    with pytest.raises(PolicyError, match=r"differ by 0\.5"):
        compare(LogprobGate(PolicySection(), torch.bfloat16), certain(300, 0.5))
    compare(gate := LogprobGate(PolicySection(), torch.bfloat16), certain(300, 0.01))
    assert gate.metrics()["logprob_compared"] == 1.0


def test_the_record_says_the_distribution_and_the_share_of_the_sampled_tokens_that_was_compared() -> None:
    gate = LogprobGate(PolicySection(), torch.bfloat16)
    differences = np.abs(np.random.default_rng(1).normal(0, 1e-2, SIZE))
    written = replace(sample(np.zeros(500), compared=False), sampled=np.zeros(500, np.bool_))
    compare(gate, sample(differences), sample(np.zeros(1000), compared=False), written)
    expected = {
        "logprob_diff_median": np.median(differences),
        "logprob_diff_p99": np.quantile(differences, 0.99),
        "logprob_diff_max": differences.max(),
        "logprob_diff_mean": differences.mean(),
        "logprob_compared": 0.5,
    }
    assert gate.metrics() == pytest.approx(expected, abs=1e-6)


def test_the_share_is_over_all_parts_of_a_step() -> None:
    gate = LogprobGate(PolicySection(), torch.bfloat16)
    compare(gate, sample(np.zeros(300)), sample(np.zeros(100), compared=False))
    compare(gate, sample(np.zeros(200)), sample(np.zeros(400), compared=False))
    assert gate.metrics()["logprob_compared"] == 0.5


def test_a_gate_that_has_compared_nothing_has_no_figures() -> None:
    gate = LogprobGate(PolicySection(), torch.bfloat16)
    compare(gate, sample(np.full(500, 9.0), compared=False))
    figures = gate.metrics()
    assert figures.pop("logprob_compared") == 0
    assert set(figures.values()) == {None}


def test_a_gate_that_compares_nothing_for_three_steps_in_a_row_warns_and_again_after_ten_times_as_many() -> None:
    watch = GateWatch(PolicySection(), torch.float32)
    shares = [0.0, 0.0, 0.4, 0.0, None, 0.0, 0.0, 0.0, 1.0, *[0.0] * 29, 0.4, *[0.0] * 31]
    records = [make_record(1, logprob_compared=share, logprob_diff_median=None) for share in shares]
    warned = [any("has compared no token" in text for text in watch.warnings(record)) for record in records]
    assert [step for step, said in enumerate(warned) if said] == [5, 68]


def test_a_gate_that_is_switched_off_warns_of_nothing() -> None:
    watch = GateWatch(PolicySection(logprob_check=False), torch.float32)
    assert [list(watch.warnings(make_record(1, logprob_compared=0.0))) for _ in range(5)] == [[]] * 5


def trend(medians: list[float | None], dtype: torch.dtype = torch.bfloat16) -> list[int]:
    """At which steps a watch warns that the differences grow."""
    watch = GateWatch(PolicySection(), dtype)
    records = [make_record(1, logprob_compared=0.5, logprob_diff_median=median) for median in medians]
    return [step for step, record in enumerate(records) if any("in the median" in w for w in watch.warnings(record))]


def test_differences_that_grow_to_four_times_their_lowest_warn_once_and_again_at_four_times_that() -> None:
    # means over eight steps; .002 is a tenth of the bound in bf16
    assert trend([0.001] * 8 + [0.004] * 7) == []
    assert trend([0.001] * 8 + [0.004] * 20) == [15]
    assert trend([0.001] * 8 + [0.004] * 8 + [0.0159] * 20) == [15]
    assert trend([0.001] * 8 + [0.004] * 8 + [0.016] * 20) == [15, 23]
    # what had nothing to compare is no step of a trend
    assert trend([0.001, None] * 8 + [0.004, None] * 8) == [30]


def test_a_trend_of_differences_that_rounding_makes_is_none() -> None:
    assert trend([1e-7] * 8 + [1e-3] * 20) == []
    assert trend([1e-7] * 8 + [9e-6] * 20, torch.float32) == []
    assert trend([1e-7] * 8 + [1e-5] * 20, torch.float32) == [15]


@pytest.mark.parametrize(("size", "is_distribution"), [(255, False), (256, True)])
def test_a_distribution_begins_at_256_tokens(size: int, is_distribution: bool) -> None:
    gate = LogprobGate(PolicySection(), torch.bfloat16)
    with pytest.raises(PolicyError, match="in the median") if is_distribution else nullcontext():
        compare(gate, sample(np.full(size, 0.05)))
