"""The policy loss in plain PyTorch, token by token: what counts, what is clipped, what each metric is over."""

import math

import pytest
import torch
from egrc_kernels.policy_loss import LossSettings, policy_loss

BOUNDARIES = torch.tensor([0, 3, 6], dtype=torch.int32)
ADVANTAGES = torch.tensor([1.0, 1.0, 0.0, -1.0, -1.0, 0.0])
WEIGHTS = torch.tensor([0.2, 0.0, 0.2, 0.2, 0.2, 0.2])
OLD = torch.tensor([-1.0, -1.0, -1.0, -1.0, -1.0, -1.0])
LIVE = OLD + torch.tensor([0.5, 9.0, 0.1, -0.5, 0.4, -0.2])


def run(settings: LossSettings, **inputs: torch.Tensor) -> tuple[float, list[float], dict[str, float]]:
    """Loss, gradient and metrics."""
    live = LIVE.clone().requires_grad_()
    loss, metrics = policy_loss(live, ADVANTAGES, WEIGHTS, BOUNDARIES, settings, old_logprobs_R=OLD, **inputs)
    loss.backward()
    assert live.grad is not None
    return float(loss.detach()), live.grad.tolist(), {n: float(v) for n, v in metrics._asdict().items()}


def used() -> list[int]:
    """Tokens that count."""
    return [t for t in range(6) if WEIGHTS[t]]


def test_only_tokens_with_a_weight_count() -> None:
    _loss, gradient, metrics = run(LossSettings(ratio="token"))
    tokens = used()
    assert metrics["num_tokens"] == len(tokens) == 5
    ratios = [math.exp(LIVE[t] - OLD[t]) for t in tokens]
    assert metrics["ratio_min"] == pytest.approx(min(ratios))
    assert metrics["ratio_max"] == pytest.approx(max(ratios))
    assert metrics["approx_kl"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratios))
    assert all(gradient[t] == 0.0 for t in range(6) if t not in tokens)


def test_a_kl_term_holds_every_token_with_a_weight_whatever_its_advantage() -> None:
    settings = LossSettings(ratio="none", kl_coef=2.0, kl_kind="k2")
    loss, gradient, _metrics = run(settings, reference_logprobs_R=OLD - 1.0)
    expected, slopes = 0.0, [0.0] * 6
    for t in used():
        # -w A lp + coef w (lp - ref)^2 / 2
        a, w, lp, x = float(ADVANTAGES[t]), float(WEIGHTS[t]), float(LIVE[t]), float(LIVE[t] - OLD[t]) + 1.0
        expected += -w * a * lp + 2.0 * w * x**2 / 2
        slopes[t] = -w * a + 2.0 * w * x
    assert loss == pytest.approx(expected)
    assert gradient == pytest.approx(slopes)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (0.45, 0.7), (0.1, 0.05)])
def test_clipping_acts_on_the_side_of_the_advantage_only(low: float, high: float) -> None:
    loss, gradient, metrics = run(LossSettings(ratio="token", eps_clip=low, eps_clip_high=high))
    expected, slopes, clipped = 0.0, [0.0] * 6, 0
    for t in used():
        ratio, a, w = math.exp(LIVE[t] - OLD[t]), float(ADVANTAGES[t]), float(WEIGHTS[t])
        bounded = min(max(ratio, 1 - low), 1 + high)
        expected -= w * min(a * ratio, a * bounded)
        is_clipped = (a > 0 and ratio > 1 + high) or (a < 0 and ratio < 1 - low)
        clipped += is_clipped
        slopes[t] = 0.0 if is_clipped else -w * a * ratio
    assert loss == pytest.approx(expected)
    assert gradient == pytest.approx(slopes)
    assert metrics["num_clipped"] == clipped


@pytest.mark.parametrize(
    ("advantage", "ratios", "clipped"),
    [
        (1.0, (0.5, 0.6, 1.0, 1.5), 1),  # only above, where more of it would pay
        (-1.0, (0.5, 0.6, 1.0, 1.5), 2),  # only below
        (1.0, (0.8, 1.2, 1.0, 1.0), 0),  # within
        (0.0, (0.5, 0.6, 1.0, 1.5), 0),
    ],
)
def test_what_is_clipped_is_counted_where_the_clip_acts(
    advantage: float, ratios: tuple[float, ...], clipped: int
) -> None:
    for ratio, expected in (("token", clipped), ("none", 0)):
        _loss, metrics = policy_loss(
            torch.tensor(ratios).log(),
            torch.full((4,), advantage),
            torch.ones(4),
            torch.tensor([0, 4], dtype=torch.int32),
            LossSettings(ratio=ratio, eps_clip=0.3, eps_clip_high=0.3),
            old_logprobs_R=torch.zeros(4),
        )
        assert int(metrics.num_clipped) == expected


def test_truncated_importance_weights_are_capped_and_one_where_the_server_is_unknown() -> None:
    rollout = OLD + torch.tensor([-1.0, 0.0, 0.3, float("nan"), -0.1, 0.0])
    _loss, _gradient, metrics = run(LossSettings(ratio="token", tis_cap=1.5), rollout_logprobs_R=rollout)
    assert metrics["tis_weight"] == pytest.approx(1.5 + math.exp(-0.3) + 1.0 + math.exp(0.1) + 1.0)


def test_without_a_token_that_counts_there_is_no_loss_and_no_extreme() -> None:
    live = LIVE.clone().requires_grad_()
    loss, metrics = policy_loss(live, ADVANTAGES, torch.zeros(6), BOUNDARIES, LossSettings())
    loss.backward()
    assert (float(loss.detach()), float(metrics.num_tokens)) == (0.0, 0.0)
    assert (float(metrics.ratio_min), float(metrics.ratio_max)) == (math.inf, -math.inf)
    assert live.grad is not None and not live.grad.any()
