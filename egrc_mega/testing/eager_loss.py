"""The policy loss written from its formulas, token by token, in float64, for autograd to derive; and random cases.

Nothing here is shared with `egrc_kernels.policy_loss` but the names of the options: a case may be given to the
reference or, in Triton's interpreter, to the kernel, and either must give this value and this gradient.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from egrc_kernels.policy_loss import PolicyLoss

from egrc_mega.policy.loss import LossRows, policy_loss
from egrc_mega.sections.stage import LossSection

LENGTHS = (0, 1, 2, 3, 7, 16, 17, 33)
"""Of packed sequences: empty ones, single tokens, a block of the tests' kernels, and what is odd to it."""
CLEAR = 1e-4
"""A case in which a ratio lies nearer than this to a bound is drawn anew: float32 may decide it otherwise."""


@dataclass(frozen=True, slots=True)
class LossCase:
    """What the trainer gives its loss, float32."""

    loss: LossSection
    rows: LossRows
    logprobs_R: torch.Tensor
    entropies_R: torch.Tensor


@dataclass(slots=True)
class Eager:
    """The value of a case, its counts, and how far the nearest decision is from turning."""

    total: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    tis_weight: float = 0.0
    num_masked: int = 0
    num_masked_sequences: int = 0
    margin: float = math.inf

    def is_within(self, value: float, low: float, high: float) -> bool:
        """Whether low <= value <= high, and note how clearly."""
        self.margin = min(self.margin, abs(value - low), abs(value - high))
        return low <= value <= high


def draw_case(seed: int) -> LossCase:
    """A case whose every decision is clear; the same for the same seed."""
    for attempt in itertools.count():
        case = _drawn(np.random.default_rng((seed, attempt)))
        if eager_loss(case, *_double(case)).margin > CLEAR:
            return case
    raise AssertionError("unreachable")


def assert_matches_eager(case: LossCase) -> PolicyLoss:
    """The loss, its gradients by log-probs and entropies, and its counts are the formulas'; what was found."""
    live_R, entropies_R = case.logprobs_R.clone().requires_grad_(), case.entropies_R.clone().requires_grad_()
    found = policy_loss(live_R, case.rows, case.loss, entropies_R)
    (3 * found.loss).backward()
    exact_R, exact_entropies_R = _double(case)
    expected = eager_loss(case, exact_R, exact_entropies_R)
    if expected.total.requires_grad:  # else all is masked
        (3 * expected.total).backward()
    torch.testing.assert_close(found.loss.detach().double(), expected.total.detach(), rtol=1e-5, atol=1e-6)
    for got, wanted in ((live_R, exact_R), (entropies_R, exact_entropies_R)):
        gradient, exact = (torch.zeros_like(x) if x.grad is None else x.grad for x in (got, wanted))
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=1e-7)
    counts = (found.metrics.num_masked, found.metrics.num_masked_sequences)
    assert tuple(map(int, counts)) == (expected.num_masked, expected.num_masked_sequences)
    torch.testing.assert_close(float(found.metrics.tis_weight), expected.tis_weight, rtol=1e-5, atol=1e-5)
    return found


def eager_loss(case: LossCase, live_R: torch.Tensor, entropies_R: torch.Tensor) -> Eager:
    """The formulas of docs/policy.md."""
    found = Eager()
    for start, stop in itertools.pairwise(case.rows.boundaries_S.tolist()):
        used = [t for t in range(start, stop) if case.rows.weights_R[t] > 0]
        if used:
            _add_sequence(found, case, used, live_R, entropies_R)
    return found


def _double(case: LossCase) -> tuple[torch.Tensor, torch.Tensor]:
    return case.logprobs_R.double().requires_grad_(), case.entropies_R.double().requires_grad_()


def _add_sequence(
    found: Eager, case: LossCase, used: list[int], live_R: torch.Tensor, entropies_R: torch.Tensor
) -> None:
    loss, rows = case.loss, case.rows
    old = {t: _old(case, t) for t in used}
    server = {t: float(rows.rollout_logprobs_R[t]) for t in used}
    trust = {t: math.exp(old[t] - server[t]) for t in used if not math.isnan(server[t])}
    is_sequence_masked = not _trusts_sequence(found, loss, [*trust.values()])
    found.num_masked_sequences += is_sequence_masked
    mean = torch.stack([live_R[t] - old[t] for t in used]).mean()
    for t in used:
        advantage, weight = float(rows.advantages_R[t]), float(rows.weights_R[t])
        log_ratio = mean if loss.ratio == "sequence" else live_R[t] - old[t]
        term = _objective(found, loss, advantage, live_R[t], log_ratio)
        tis = _tis(found, loss, trust, t)
        is_masked = is_sequence_masked or not _trusts_token(found, loss, trust.get(t))
        found.tis_weight += tis
        found.num_masked += is_masked
        if not is_masked:
            found.total = found.total - weight * tis * term
        if loss.kl_coef:
            assert rows.reference_logprobs_R is not None
            x = live_R[t] - float(rows.reference_logprobs_R[t])
            kl = {"k1": x, "k2": x**2 / 2, "k3": (-x).exp() - 1 + x}[loss.kl_kind]
            found.total = found.total + loss.kl_coef * weight * kl
        if loss.entropy_coef:
            found.total = found.total - loss.entropy_coef * weight * entropies_R[t]


def _old(case: LossCase, t: int) -> float:
    """Of what is stated, what the section asks for, and the trainer's own, the first that there is."""
    rows, present = case.rows, float(case.logprobs_R[t])
    own = present if rows.old_logprobs_R is None else float(rows.old_logprobs_R[t])
    stated = math.nan if rows.stated_old_logprobs_R is None else float(rows.stated_old_logprobs_R[t])
    asked = math.nan
    if case.loss.old_logprobs == "rollout":
        asked = float(rows.rollout_logprobs_R[t])
    elif case.loss.old_logprobs == "reference":
        assert rows.reference_logprobs_R is not None
        asked = float(rows.reference_logprobs_R[t])
    return next(value for value in (stated, asked, own) if not math.isnan(value))


def _objective(
    found: Eager, loss: LossSection, advantage: float, live: torch.Tensor, log_ratio: torch.Tensor
) -> torch.Tensor:
    if loss.ratio == "none":
        return advantage * live
    ratio, high = log_ratio.exp(), 1 + loss.eps_clip_high
    found.is_within(float(ratio.detach()), 1 - loss.eps_clip, high)
    if loss.ratio == "capped":
        return advantage * ratio.detach().clamp(max=high) * live
    term = torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - loss.eps_clip, high))
    if loss.dual_clip is not None and advantage < 0:
        found.is_within(float(term.detach()) / advantage, 0.0, loss.dual_clip)
        term = torch.maximum(term, torch.full_like(term, loss.dual_clip * advantage))
    return term


def _whole(ratios: list[float], kind: str) -> float:
    """Of a response: the product or the geometric mean; 1 where no ratio is known."""
    return math.prod(ratios) ** (1 if kind == "product" else 1 / max(1, len(ratios)))


def _tis(found: Eager, loss: LossSection, trust: dict[int, float], t: int) -> float:
    if loss.tis_cap is None:
        return 1.0
    ratio = trust.get(t, 1.0) if loss.tis_ratio == "token" else _whole([*trust.values()], loss.tis_ratio)
    return ratio if found.is_within(ratio, -math.inf, loss.tis_cap) else loss.tis_cap


def _trusts_token(found: Eager, loss: LossSection, ratio: float | None) -> bool:
    return ratio is None or loss.token_mask is None or found.is_within(ratio, *loss.token_mask)


def _trusts_sequence(found: Eager, loss: LossSection, ratios: list[float]) -> bool:
    if loss.sequence_mask is None or not ratios:
        return True
    kind = loss.sequence_mask_ratio
    looked_at = ratios if kind == "worst_token" else [_whole(ratios, kind)]
    decisions = [found.is_within(ratio, *loss.sequence_mask) for ratio in looked_at]  # all: each has a margin
    return all(decisions)


def _drawn(random: np.random.Generator) -> LossCase:
    loss = LossSection.model_validate(dict(_options(random)))
    lengths = random.choice(LENGTHS, size=int(random.integers(1, 6)))
    size = max(1, int(lengths.sum()))
    boundaries = np.cumsum([0, *lengths]) if lengths.sum() else np.array([0, 1])
    noise = float(random.choice([0.05, 0.4]))
    live = -3 * random.random(size)

    def near() -> np.ndarray:
        return live + noise * random.standard_normal(size)

    is_used, is_stated = random.random(size) > 0.2, random.random(size) < 0.1
    rollout = np.where(random.random(size) > 0.15, near(), np.nan)
    values = {
        "advantages_R": random.standard_normal(size),
        "rollout_logprobs_R": rollout,
        "reference_logprobs_R": near(),
        "old_logprobs_R": near() if random.random() < 0.7 else None,
        "stated_old_logprobs_R": np.where(is_stated, near(), np.nan) if random.random() < 0.3 else None,
    }
    # under weight zero there may be anything
    hidden = {
        name: None if value is None else _float32(np.where(is_used, value, np.nan)) for name, value in values.items()
    }
    weights = np.where(is_used, 0.05 + random.random(size), 0.0)
    rows = LossRows(weights_R=_float32(weights), boundaries_S=torch.tensor(boundaries, dtype=torch.int32), **hidden)  # type: ignore[arg-type]
    return LossCase(loss, rows, _float32(np.where(is_used, live, np.nan)), _float32(random.random(size)))


def _float32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _options(random: np.random.Generator) -> Iterator[tuple[str, object]]:
    """Each word as often as another, each term in half of the cases or less."""
    ratio = str(random.choice(["none", "token", "sequence", "capped"]))
    yield "ratio", ratio
    yield "eps_clip", float(random.uniform(0.05, 0.5))
    yield "eps_clip_high", float(random.uniform(0.05, 0.5))
    if ratio in ("token", "sequence") and random.random() < 0.3:
        yield "dual_clip", float(random.uniform(1.1, 2.0))
    yield "old_logprobs", str(random.choice(["trainer", "trainer", "rollout", "reference"]))
    if random.random() < 0.6:
        yield "tis_cap", float(random.uniform(0.8, 2.0))
    if random.random() < 0.8:  # without a cap it says nothing
        yield "tis_ratio", str(random.choice(["token", "geometric_mean", "product"]))
    if random.random() < 0.4:
        yield "token_mask", (float(random.uniform(0, 0.95)), float(random.uniform(1.05, 2)))
    if random.random() < 0.5:
        yield "sequence_mask", (float(random.uniform(0, 0.98)), float(random.uniform(1.02, 2)))
        yield "sequence_mask_ratio", str(random.choice(["geometric_mean", "product", "worst_token"]))
    if random.random() < 0.3:
        yield "kl_coef", 0.3
        yield "kl_kind", str(random.choice(["k1", "k2", "k3"]))
    if random.random() < 0.3:
        yield "entropy_coef", 0.2
