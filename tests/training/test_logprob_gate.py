"""The log-prob gate: which tokens are compared, what stops a run, and what is told of the differences."""

import numpy as np
import pytest
import torch

from egrc_mega.errors import PolicyError
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.sections.policy import PolicySection
from egrc_mega.testing.samples import make_train_sample
from egrc_mega.training.gate import LogprobGate
from egrc_mega.types import TrainSample

NAN, INFINITY = float("nan"), float("inf")


def sample(server: list[float], compared: list[int]) -> TrainSample:
    ids = range(len(server))
    return make_train_sample((1,), ids, rollout_logprobs=server, compared=compared)


def stats(*trainer: float) -> TokenStats:
    nothing = torch.zeros(len(trainer))
    return TokenStats(torch.tensor(trainer), nothing, nothing)


def gate(**section: object) -> LogprobGate:
    return LogprobGate(PolicySection(**({"logprob_bound": 0.1} | section)), torch.float32)


@pytest.mark.parametrize("server", [-1.11, -0.89, -5.0, NAN, -INFINITY, INFINITY])
def test_a_compared_token_that_differs_or_is_no_number_stops_the_run(server: float) -> None:
    with pytest.raises(PolicyError, match=r"differ by .*, more than policy\.logprob_bound = 0\.1"):
        gate().compare([sample([-1.0, server], [1, 1])], stats(-1.0, -1.0))


@pytest.mark.parametrize("trainer", [NAN, -INFINITY])
def test_a_trainer_that_computes_no_number_stops_the_run(trainer: float) -> None:
    with pytest.raises(PolicyError):
        gate().compare([sample([-1.0, -1.0], [1, 1])], stats(-1.0, trainer))


@pytest.mark.parametrize("server", [-1.11, -9.0, NAN, -INFINITY])
def test_a_token_of_other_weights_or_of_nobody_stops_nothing(server: float) -> None:
    check = gate()
    check.compare([sample([-1.0, server], [1, 0])], stats(-1.05, -1.0))
    assert check.differences.tolist() == pytest.approx([0.05], abs=1e-6)


@pytest.mark.parametrize("server", [-1.125, -0.875])
def test_a_difference_at_the_bound_passes_on_either_side(server: float) -> None:
    check = gate(logprob_bound=0.125)
    check.compare([sample([server], [1])], stats(-1.0))
    assert check.differences.tolist() == [0.125]


def test_samples_are_compared_token_by_token_in_their_order() -> None:
    check = gate(logprob_bound=1.0)
    check.compare(
        [sample([-1.0, -2.0], [1, 0]), sample([-3.0], [0]), sample([-4.0, -5.0], [1, 1])],
        stats(-1.1, -9.0, -9.0, -4.2, -4.6),
    )
    assert check.differences.tolist() == pytest.approx([0.1, 0.2, 0.4], abs=1e-6)
    check.compare([sample([-1.0], [1])], stats(-1.5))
    assert check.differences.tolist() == pytest.approx([0.1, 0.2, 0.4, 0.5], abs=1e-6)


def test_with_nothing_to_compare_nothing_is_found() -> None:
    check = gate()
    check.compare([sample([NAN, -9.0], [0, 0])], stats(-1.0, -1.0))
    assert len(check.differences) == 0


@pytest.mark.parametrize("server", [-3.0, NAN])
def test_switched_off_it_notes_and_lets_pass(server: float) -> None:
    check = gate(logprob_check=False)
    check.compare([sample([server, -1.0], [1, 1])], stats(-1.0, -1.0))
    assert np.allclose(check.differences.tolist(), [2.0 if server == -3.0 else NAN, 0.0], equal_nan=True)
