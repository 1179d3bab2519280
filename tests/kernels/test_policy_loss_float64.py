"""Every option of the policy loss against its formula in float64, loss by loss and gradient by autograd."""

import itertools
import math

import pytest
import torch
from egrc_kernels.policy_loss import LossSettings, policy_loss

BOUNDARIES = [0, 4, 4, 9, 12]
"""Four responses, the second without a token."""
SIZE = BOUNDARIES[-1]


def values(seed: int) -> dict[str, torch.Tensor]:
    """Log-probs far enough apart that every clip, cap and floor acts on some token and not on others."""
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(SIZE, generator=generator)

    live = -1 - normal(1.0).abs()
    weights = 0.05 + torch.rand(SIZE, generator=generator) / SIZE
    weights[torch.tensor([1, 6])] = 0.0
    rollout = live + normal(0.5)
    rollout[3] = math.nan
    return {
        "live": live,
        "advantages": normal(1.5),
        "weights": weights,
        "old": live + normal(0.6),
        "rollout": rollout,
        "reference": live + normal(0.7),
    }


def written_out(data: dict[str, torch.Tensor], live: torch.Tensor, settings: LossSettings) -> torch.Tensor:
    """The module's formulas, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for start, stop in itertools.pairwise(BOUNDARIES):
        used = [t for t in range(start, stop) if data["weights"][t] > 0]
        for t in used:
            a, w, old, server, reference = (
                float(data[name][t]) for name in ("advantages", "weights", "old", "rollout", "reference")
            )
            if settings.ratio == "none":
                objective = a * live[t]
            else:
                own = [t] if settings.ratio == "token" else used
                ratio = (sum(live[i] - float(data["old"][i]) for i in own) / len(own)).exp()
                bounded = ratio.clamp(1 - settings.eps_clip, 1 + settings.eps_clip_high)
                objective = torch.minimum(a * ratio, a * bounded)
                if settings.dual_clip is not None and a < 0:
                    objective = torch.maximum(objective, torch.full_like(objective, settings.dual_clip * a))
            if settings.tis_cap is not None:
                objective = objective * min(settings.tis_cap, 1.0 if math.isnan(server) else math.exp(old - server))
            x = live[t] - reference
            kl = {"k1": x, "k2": x**2 / 2, "k3": (-x).exp() - 1 + x}[settings.kl_kind]
            total = total - w * objective + settings.kl_coef * w * kl
    return total


@pytest.mark.parametrize("ratio", ["none", "token", "sequence"])
@pytest.mark.parametrize("dual_clip", [None, 1.5])
@pytest.mark.parametrize("tis_cap", [None, 1.2])
@pytest.mark.parametrize(("kl_coef", "kl_kind"), [(0.0, "k3"), (0.7, "k1"), (0.7, "k2"), (0.7, "k3")])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_gradient_are_those_of_the_formula(
    ratio: str, dual_clip: float | None, tis_cap: float | None, kl_coef: float, kl_kind: str, seed: int
) -> None:
    settings = LossSettings(
        ratio=ratio,
        eps_clip=0.15,
        eps_clip_high=0.25,
        dual_clip=dual_clip,
        tis_cap=tis_cap,
        kl_coef=kl_coef,
        kl_kind=kl_kind,
    )
    data = values(seed)
    live = data["live"].clone().requires_grad_()
    loss, _metrics = policy_loss(
        live,
        data["advantages"],
        data["weights"],
        torch.tensor(BOUNDARIES, dtype=torch.int32),
        settings,
        old_logprobs_R=data["old"],
        rollout_logprobs_R=data["rollout"],
        reference_logprobs_R=data["reference"],
    )
    (3.0 * loss).backward()
    exact = data["live"].double().requires_grad_()
    expected = written_out(data, exact, settings)
    (3.0 * expected).backward()
    assert live.grad is not None and exact.grad is not None
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(live.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)
