"""Every option of the policy loss against its formula in float64, loss by loss and gradient by autograd."""

import itertools
import math

import pytest
import torch
from egrc_kernels.policy_loss import LossSettings, policy_loss

BOUNDARIES = [0, 4, 4, 9, 12]
"""Four responses, the second without a token."""
SIZE = BOUNDARIES[-1]
INPUTS = ("advantages", "weights", "old", "rollout", "reference", "entropies")


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
        "entropies": normal(1.0).abs(),
    }


def masked(data: dict[str, torch.Tensor], used: list[int], settings: LossSettings) -> tuple[set[int], bool]:
    """The tokens of a response that teach nothing, and whether that is because of the whole response."""
    known = [t for t in used if not math.isnan(data["rollout"][t])]
    trust = {t: math.exp(float(data["old"][t]) - float(data["rollout"][t])) for t in known}
    found: set[int] = set()
    if settings.token_mask:
        low, high = settings.token_mask
        found = {t for t in known if not low <= trust[t] <= high}
    if settings.sequence_mask and known:
        low, high = settings.sequence_mask
        of_the_response = [whole_ratio(trust, settings.sequence_mask_ratio)]
        if settings.sequence_mask_ratio == "worst_token":
            of_the_response = list(trust.values())
        if any(not low <= ratio <= high for ratio in of_the_response):
            return set(used), True
    return found, False


def whole_ratio(trust: dict[int, float], kind: str) -> float:
    """Of a response whose known tokens have these ratios."""
    return math.prod(trust.values()) ** (1 if kind == "product" else 1 / max(1, len(trust)))


def written_out(
    data: dict[str, torch.Tensor], live: torch.Tensor, entropies: torch.Tensor, settings: LossSettings
) -> torch.Tensor:
    """The module's formulas, token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for start, stop in itertools.pairwise(BOUNDARIES):
        used = [t for t in range(start, stop) if data["weights"][t] > 0]
        ignored, _whole = masked(data, used, settings)
        trust = {t: math.exp(float(data["old"][t]) - float(data["rollout"][t])) for t in used}
        trust = {t: ratio for t, ratio in trust.items() if not math.isnan(ratio)}
        for t in used:
            a, w, old, _server, reference = (float(data[name][t]) for name in INPUTS[:-1])
            if settings.ratio == "none":
                objective = a * live[t]
            elif settings.ratio == "capped":
                objective = a * min(math.exp(float(live[t].detach()) - old), 1 + settings.eps_clip_high) * live[t]
            else:
                own = [t] if settings.ratio == "token" else used
                ratio = (sum(live[i] - float(data["old"][i]) for i in own) / len(own)).exp()
                bounded = ratio.clamp(1 - settings.eps_clip, 1 + settings.eps_clip_high)
                objective = torch.minimum(a * ratio, a * bounded)
                if settings.dual_clip is not None and a < 0:
                    objective = torch.maximum(objective, torch.full_like(objective, settings.dual_clip * a))
            if settings.tis_cap is not None:
                own_trust = (
                    trust.get(t, 1.0) if settings.tis_ratio == "token" else whole_ratio(trust, settings.tis_ratio)
                )
                objective = objective * min(settings.tis_cap, own_trust)
            if t in ignored:
                objective = torch.zeros((), dtype=torch.float64)
            x = live[t] - reference
            kl = {"k1": x, "k2": x**2 / 2, "k3": (-x).exp() - 1 + x}[settings.kl_kind]
            total = total - w * objective + settings.kl_coef * w * kl - settings.entropy_coef * w * entropies[t]
    return total


def assert_matches_the_formula(settings: LossSettings, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Loss and gradients are those of the formula, as autograd derives them; the data, and the metrics."""
    data = values(seed)
    live, entropies = (data[name].clone().requires_grad_() for name in ("live", "entropies"))
    loss, metrics = policy_loss(
        live,
        data["advantages"],
        data["weights"],
        torch.tensor(BOUNDARIES, dtype=torch.int32),
        settings,
        old_logprobs_R=data["old"],
        rollout_logprobs_R=data["rollout"],
        reference_logprobs_R=data["reference"],
        entropies_R=entropies,
    )
    (3.0 * loss).backward()
    exact, exact_entropies = (data[name].double().requires_grad_() for name in ("live", "entropies"))
    expected = written_out(data, exact, exact_entropies, settings)
    (3.0 * expected).backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5, abs=1e-6)
    for found, wanted in ((live, exact), (entropies, exact_entropies)):
        gradient = torch.zeros(SIZE) if found.grad is None else found.grad
        slope = torch.zeros(SIZE, dtype=torch.float64) if wanted.grad is None else wanted.grad
        torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-6)
    return data, {name: float(value) for name, value in metrics._asdict().items()}


@pytest.mark.parametrize("ratio", ["none", "token", "sequence", "capped"])
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
    assert_matches_the_formula(settings, seed)


@pytest.mark.parametrize("ratio", ["none", "token", "sequence", "capped"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_entropy_is_rewarded_token_by_token_and_has_its_gradient(ratio: str, seed: int) -> None:
    assert_matches_the_formula(LossSettings(ratio=ratio, entropy_coef=0.3), seed)
    assert_matches_the_formula(
        LossSettings(ratio=ratio, entropy_coef=0.3, tis_cap=1.2, kl_coef=0.7, token_mask=(0.7, 1.4)), seed
    )


@pytest.mark.parametrize("ratio", ["none", "token", "sequence", "capped"])
@pytest.mark.parametrize("tis_ratio", ["product", "geometric_mean"])
def test_the_tokens_of_a_response_have_one_truncated_weight(ratio: str, tis_ratio: str) -> None:
    for seed in range(4):
        settings = LossSettings(ratio=ratio, tis_cap=1.3, tis_ratio=tis_ratio, kl_coef=0.7, entropy_coef=0.3)
        data, metrics = assert_matches_the_formula(settings, seed)
        weights = []
        for start, stop in itertools.pairwise(BOUNDARIES):
            used = [t for t in range(start, stop) if data["weights"][t] > 0]
            shifts = [float(data["old"][t] - data["rollout"][t]) for t in used if not math.isnan(data["rollout"][t])]
            log_ratio = sum(shifts) / (1 if tis_ratio == "product" else max(1, len(shifts)))
            weights += [min(1.3, math.exp(log_ratio))] * len(used)
        assert metrics["tis_weight"] == pytest.approx(sum(weights), rel=1e-5)
        assert 1 < len(set(weights)) < len(weights)


def test_masked_importance_sampling_of_sequences_is_a_mask_by_the_product_with_the_product_as_weight() -> None:
    """Three sequences whose products are 2, 8 (each token's is 2 to 4: trusted) and 1/2; up to 4 is trusted."""
    server = torch.tensor([2.0, 1.0, 2.0, 4.0, 0.5]).log().neg()
    settings = LossSettings(
        ratio="none", tis_cap=4.0, tis_ratio="product", sequence_mask=(0.0, 4.0), sequence_mask_ratio="product"
    )
    live = torch.full((5,), -1.0).requires_grad_()
    loss, metrics = policy_loss(
        live,
        torch.ones(5),
        torch.ones(5),
        torch.tensor([0, 2, 4, 5], dtype=torch.int32),
        settings,
        old_logprobs_R=torch.zeros(5),
        rollout_logprobs_R=server,
    )
    loss.backward()
    assert live.grad is not None
    assert live.grad.tolist() == pytest.approx([-2.0, -2.0, 0.0, 0.0, -0.5])
    assert (metrics.num_masked, metrics.num_masked_sequences) == (2, 1)


@pytest.mark.parametrize("ratio", ["none", "token", "sequence", "capped"])
@pytest.mark.parametrize("tis_cap", [None, 1.2])
@pytest.mark.parametrize(
    ("token_mask", "sequence_mask", "sequence_mask_ratio"),
    [
        ((0.7, 1.4), None, "geometric_mean"),
        (None, (0.9, 1.2), "geometric_mean"),
        (None, (0.3, 1.7), "worst_token"),
        (None, (0.5, 1.6), "product"),
        ((0.7, 1.4), (0.9, 1.2), "geometric_mean"),
    ],
)
def test_what_sampler_and_trainer_see_too_differently_teaches_nothing_and_is_counted(
    ratio: str,
    tis_cap: float | None,
    token_mask: tuple[float, float] | None,
    sequence_mask: tuple[float, float] | None,
    sequence_mask_ratio: str,
) -> None:
    settings = LossSettings(
        ratio=ratio,
        tis_cap=tis_cap,
        token_mask=token_mask,
        sequence_mask=sequence_mask,
        sequence_mask_ratio=sequence_mask_ratio,
    )
    num_masked_sequences = 0
    for seed in range(4):
        data, metrics = assert_matches_the_formula(settings, seed)
        found = []
        for start, stop in itertools.pairwise(BOUNDARIES):
            used = [t for t in range(start, stop) if data["weights"][t] > 0]
            found.append(masked(data, used, settings))
        assert metrics["num_masked"] == sum(len(tokens) for tokens, _whole in found)
        assert metrics["num_masked_sequences"] == sum(whole for _tokens, whole in found)
        num_masked_sequences += sum(whole for _tokens, whole in found)
    assert (0 < num_masked_sequences < 4 * 3) == (sequence_mask is not None)


def test_icepop_is_a_mask_of_tokens_with_the_ratio_as_weight_inside_it() -> None:
    """k inside [low, high], 0 outside (the truncated weight with the mask's upper bound as its cap)."""
    old, server = torch.zeros(5), torch.tensor([1.0, 0.5, 2.0, 0.1, 8.0]).log().neg()
    weights, boundaries = torch.full((5,), 0.2), torch.tensor([0, 5], dtype=torch.int32)
    settings = LossSettings(ratio="none", tis_cap=5.0, token_mask=(0.5, 5.0))
    live = torch.full((5,), -1.0).requires_grad_()
    loss, metrics = policy_loss(
        live, torch.ones(5), weights, boundaries, settings, old_logprobs_R=old, rollout_logprobs_R=server
    )
    loss.backward()
    assert live.grad is not None
    assert live.grad.tolist() == pytest.approx([-0.2, -0.1, -0.4, 0.0, 0.0])
    assert metrics.num_masked == 2


def test_the_mean_ratio_of_a_sequence_is_over_the_tokens_whose_log_prob_the_server_told() -> None:
    """One of four is known, and is off by 1.3: over all four the mean would be 1.07, and trusted."""
    nan = float("nan")
    loss, metrics = policy_loss(
        torch.full((4,), -1.0).requires_grad_(),
        torch.ones(4),
        torch.ones(4),
        torch.tensor([0, 4], dtype=torch.int32),
        LossSettings(ratio="none", sequence_mask=(0.9, 1.2)),
        old_logprobs_R=torch.full((4,), -1.0),
        rollout_logprobs_R=torch.tensor([nan, -1.0 - math.log(1.3), nan, nan]),
    )
    assert (float(loss.detach()), metrics.num_masked, metrics.num_masked_sequences) == (0.0, 4, 1)


def test_an_overflowing_ratio_in_a_masked_token_does_not_spoil_the_loss() -> None:
    live = torch.tensor([-1.0, -1.0]).requires_grad_()
    old, server = torch.tensor([-1.0, -200.0]), torch.tensor([-1.0, -1.0])
    loss, _metrics = policy_loss(
        live,
        torch.tensor([1.0, -1.0]),
        torch.ones(2),
        torch.tensor([0, 2], dtype=torch.int32),
        LossSettings(ratio="token", token_mask=(0.5, 2.0)),
        old_logprobs_R=old,
        rollout_logprobs_R=server,
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-1.0)
    assert live.grad is not None and live.grad.tolist() == pytest.approx([-1.0, 0.0])


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (LossSettings(token_mask=(0.5, 2.0)), "rollout_logprobs_R"),
        (LossSettings(sequence_mask=(0.5, 2.0)), "rollout_logprobs_R"),
        (LossSettings(entropy_coef=0.1), "entropies_R"),
    ],
)
def test_a_term_without_its_values_is_refused_by_name(settings: LossSettings, missing: str) -> None:
    ones = torch.ones(2)
    with pytest.raises(ValueError, match=missing):
        policy_loss(ones, ones, ones, torch.tensor([0, 2], dtype=torch.int32), settings)
