"""The policy-loss kernel in Triton's interpreter: loss, gradient and metrics against the reference in float64."""

import itertools

import pytest
import torch
from egrc_kernels.policy_loss import LossSettings, policy_loss, reference, token_weights
from egrc_kernels.policy_loss import triton as kernel

BOUNDARIES = torch.tensor([0, 1, 1, 40, 41, 70, 70], dtype=torch.int32)
"""One-token and empty sequences, at the end too."""
RATIO = [
    {"ratio": r, "dual_clip": d}
    for r, d in [("none", None), ("token", None), ("token", 3.0), ("sequence", 2.0), ("capped", None)]
]
MASKS = {"token_mask": (0.8, 1.3)}, {"sequence_mask": (0.9, 1.2)}, {"sequence_mask": (0.2, 5.0)}
EXTRA = [
    {},
    {"tis_cap": 1.5},
    *({"kl_coef": 0.1, "kl_kind": kind} for kind in ("k1", "k2", "k3")),
    {"tis_cap": 2.0, "kl_coef": 0.2},
    {"entropy_coef": 0.3},
    MASKS[0],
    MASKS[1],
    MASKS[2] | {"sequence_mask_ratio": "worst_token"},
    {"tis_cap": 1.3, "kl_coef": 0.2, "entropy_coef": 0.1} | MASKS[0] | MASKS[1],
    {"kl_coef": 0.2, "entropy_coef": 0.1} | MASKS[0] | MASKS[2] | {"sequence_mask_ratio": "worst_token"},
    MASKS[2] | {"sequence_mask_ratio": "product"},
    {"tis_cap": 1.4, "tis_ratio": "product"},
    {"tis_cap": 1.1, "tis_ratio": "geometric_mean", "kl_coef": 0.2, "entropy_coef": 0.1} | MASKS[0],
    {"tis_cap": 5.0, "tis_ratio": "product", "sequence_mask_ratio": "product"} | MASKS[2],
]


@pytest.fixture(autouse=True)
def small_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", 16)
    monkeypatch.setattr(kernel, "TOTALS_BLOCK", 4)  # six sequences take two


def inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = int(BOUNDARIES[-1])
    mask = (torch.rand(rows, generator=generator) > 0.2).float()
    mask[0] = 1
    logprobs = -torch.rand(rows, generator=generator) * 3
    noise = 0.3 * torch.randn(3, rows, generator=generator)
    noise[1, 40] = 2.0  # a sequence of one token that any mask takes
    rollout = logprobs + noise[1]
    rollout[5] = torch.nan  # unknown
    found = {
        "logprobs_R": logprobs,
        "advantages_R": torch.randn(rows, generator=generator),
        "weights_R": token_weights(mask, BOUNDARIES, "sequence-mean"),
        "old_logprobs_R": logprobs + noise[0],
        "rollout_logprobs_R": rollout,
        "reference_logprobs_R": logprobs + noise[2],
        "entropies_R": 2 * torch.rand(rows, generator=generator),
    }
    # under the mask there may be anything
    for name, tensor in found.items():
        if name != "weights_R":
            tensor[mask == 0] = torch.nan
    return found


def run(values: dict[str, torch.Tensor], settings: LossSettings):
    values = dict(values)
    live = values.pop("logprobs_R").clone().requires_grad_()
    advantages, weights = values.pop("advantages_R"), values.pop("weights_R")
    entropies = values.pop("entropies_R").clone().requires_grad_()
    result = policy_loss(live, advantages, weights, BOUNDARIES, settings, entropies_R=entropies, **values)
    (3 * result.loss).backward()
    assert (entropies.grad is None) == (not settings.entropy_coef)
    return result, torch.stack([live.grad] if entropies.grad is None else [live.grad, entropies.grad])


@pytest.mark.parametrize(("ratio", "extra"), list(itertools.product(RATIO, EXTRA)))
def test_loss_gradient_and_metrics_match_float64(ratio: dict, extra: dict) -> None:
    settings = LossSettings(**ratio, **extra)
    values = inputs()
    found, gradient = run(values, settings)
    double = {name: tensor.double() for name, tensor in values.items()}
    loss, expected, metrics = reference.loss_gradients_metrics(
        double["logprobs_R"],
        double["advantages_R"],
        double["weights_R"],
        double["old_logprobs_R"],
        double["rollout_logprobs_R"],
        double["reference_logprobs_R"],
        double["entropies_R"] if settings.entropy_coef else None,
        BOUNDARIES,
        settings,
    )
    torch.testing.assert_close(found.loss.double(), loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), 3 * expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.stack(found.metrics).double(), metrics, rtol=1e-5, atol=1e-5)
    assert gradient.isfinite().all()
    if settings.token_mask or settings.sequence_mask:
        assert 0 < found.metrics.num_masked < found.metrics.num_tokens
    assert (found.metrics.num_masked_sequences > 0) == (settings.sequence_mask is not None)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_without_old_logprobs_the_present_ones_are_old(ratio: str) -> None:
    settings, values = LossSettings(ratio=ratio, tis_cap=1.5), inputs()
    expected, expected_gradient = run(values | {"old_logprobs_R": values["logprobs_R"]}, settings)
    found, gradient = run(values | {"old_logprobs_R": None}, settings)
    assert torch.equal(found.loss, expected.loss) and torch.equal(gradient, expected_gradient)
    assert found.metrics.ratio_min == found.metrics.ratio_max == 1


def test_the_same_bits_again() -> None:
    settings = LossSettings(ratio="sequence", tis_cap=1.5, kl_coef=0.1)
    first, second = run(inputs(), settings), run(inputs(), settings)
    assert torch.equal(first[0].loss, second[0].loss)
    assert torch.equal(first[1], second[1])


def test_nothing_to_learn_is_zero_everywhere() -> None:
    values = inputs()
    values["weights_R"] = torch.zeros_like(values["weights_R"])
    result, gradient = run(values, LossSettings(ratio="sequence"))
    assert result.loss == 0 and gradient.abs().max() == 0
    assert result.metrics.num_tokens == 0


def test_no_sequence_at_all() -> None:
    empty = torch.empty(0)
    result = policy_loss(empty, empty, empty, torch.tensor([0], dtype=torch.int32), LossSettings())
    assert result.loss == 0 and result.metrics.num_tokens == 0
