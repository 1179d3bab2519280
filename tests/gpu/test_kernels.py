"""The kernels on a GPU in bf16, against float64; a row's bits whatever its company; under torch.compile."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from egrc_kernels.linear_logprob import in_forward, linear_logprob, linear_token_loss
from egrc_kernels.logprob import logprob_entropy, rows
from egrc_kernels.masked_logprob import SamplingMasks, masked_logprob
from egrc_kernels.policy_loss import LossSettings, policy_loss, reference
from egrc_kernels.rmsnorm import rmsnorm
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import swiglu

from egrc_mega.testing.kernel_worker import random_masks

TENSORS_OF_MASKS = ("rows_K", "tokens_K", "boundaries_T1", "targets_T")
REAL = 19990
"""Columns of `head` that are no padding; all targets are among them."""


@pytest.fixture(autouse=True)
def the_same_inputs_every_time() -> None:
    torch.manual_seed(1)


def assert_close(found: torch.Tensor, exact: torch.Tensor, bound: float) -> None:
    assert found.isfinite().all()
    assert float((found.double() - exact).norm() / exact.norm().clamp(min=1e-12)) <= bound


def head(rows: int = 300, hidden: int = 512, vocab: int = 20000) -> tuple[torch.Tensor, ...]:
    x = torch.randn(rows, hidden, device="cuda").bfloat16()
    weight = (2.5 / hidden**0.5 * torch.randn(vocab, hidden, device="cuda")).bfloat16()
    targets = torch.randint(REAL, (rows,), device="cuda")
    targets[7] = -100
    return x, weight, targets


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_linear_logprob_and_its_gradients(temperature: float) -> None:
    x, weight, targets = head()
    live = [t.clone().requires_grad_() for t in (x, weight)]
    stats = linear_logprob(*live, targets, temperature=temperature, vocab_size=REAL, chunk_bytes=2**22)
    factors = torch.randn(2, len(x), device="cuda")
    (factors[0] * stats.logprob_T + factors[1] * stats.entropy_T).sum().backward()
    doubles = [t.double().requires_grad_() for t in (x, weight)]
    logp = torch.log_softmax((doubles[0] @ doubles[1].T)[:, :REAL] / temperature, -1)
    chosen = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0].where(targets != -100, 0.0)
    entropy = -(logp.exp() * logp).sum(-1)
    (factors[0] * chosen + factors[1] * entropy).sum().backward()
    # logits are float32: bf16 ones would be wrong by 1e-2
    assert float((stats.logprob_T - chosen).abs().max()) <= 2e-5
    assert float((stats.entropy_T - entropy).abs().max()) <= 2e-5
    for found, exact in zip(live, doubles, strict=True):
        assert_close(found.grad, exact.grad, 6e-3)


def test_masked_logprob_and_its_gradients_without_a_wait() -> None:
    """Rows with one to 200 tokens, and rows with no mask; the order of sums is fixed in torch's deterministic mode."""
    x, weight, _targets = head()
    masks = SamplingMasks(*(getattr(random_masks(len(x), 200), name).cuda() for name in TENSORS_OF_MASKS))
    factor, results = torch.randn(len(x), device="cuda"), []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            live = [t.clone().requires_grad_() for t in (x, weight)]
            torch.cuda.set_sync_debug_mode("error")
            found = masked_logprob(*live, masks, temperature=0.7, vocab_size=REAL)
            (factor * found).sum().backward()
            torch.cuda.set_sync_debug_mode("default")
            results.append((found.detach(), live[0].grad, live[1].grad))
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    doubles = [t.double().requires_grad_() for t in (x, weight)]
    allowed = torch.zeros(len(x), len(weight), dtype=torch.bool, device="cuda")
    allowed[masks.rows_K, masks.tokens_K] = True
    logp = torch.log_softmax((doubles[0] @ doubles[1].T / 0.7).masked_fill(~allowed, -torch.inf), -1)
    has_mask = masks.has_mask_T
    exact = logp[has_mask, masks.tokens_K[masks.targets_T[has_mask]]]
    (factor[has_mask] * exact).sum().backward()
    assert float((results[0][0][has_mask] - exact.detach()).abs().max()) <= 2e-5 and not results[0][0][~has_mask].any()
    for gradient, expected in zip(results[0][1:], doubles, strict=True):
        assert_close(gradient, expected.grad, 6e-3)


def test_the_fused_forward_is_batch_invariant_and_exact() -> None:
    x, weight, targets = head(rows=1000)
    with torch.no_grad():
        whole = linear_logprob(x, weight, targets, temperature=0.7)
        for rows in (slice(0, 1), slice(3, 130), slice(500, 1000)):
            part = linear_logprob(x[rows].contiguous(), weight, targets[rows], temperature=0.7)
            assert all(torch.equal(a, b[rows]) for a, b in zip(part, whole, strict=True))
        order = torch.randperm(len(x), device="cuda")
        shuffled = linear_logprob(x[order], weight, targets[order], temperature=0.7)
        assert all(torch.equal(a, b[order]) for a, b in zip(shuffled, whole, strict=True))
    logp = torch.log_softmax(x.double() @ weight.double().T / 0.7, -1)
    chosen = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0].where(targets != -100, 0.0)
    assert float((whole.logprob_T - chosen).abs().max()) <= 2e-5


def test_kernels_repeat_bit_by_bit() -> None:
    x, weight, targets = head()
    results = []
    for _ in range(3):
        live = [t.clone().requires_grad_() for t in (x, weight)]
        stats = linear_logprob(*live, targets)
        stats.logprob_T.sum().backward()
        results.append((stats.logprob_T.detach(), live[0].grad, live[1].grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def of_token_loss(
    x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, slopes: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, ...]:
    """The sum of slopes times log-probs, statistics, and gradients of thrice the sum."""
    live = [t.clone().requires_grad_() for t in (x, weight)]

    def by_row(logprobs: torch.Tensor, place: slice) -> tuple[torch.Tensor, torch.Tensor]:
        return (slopes[place] * logprobs).sum(), slopes[place]

    loss, stats = linear_token_loss(*live, targets, by_row, **options)
    return loss.detach(), *stats, *torch.autograd.grad(3 * loss, live)


def exact_token_loss(
    x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, slopes: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, ...]:
    """Loss and gradients in float64."""
    live = [t.double().requires_grad_() for t in (x, weight)]
    logp = torch.log_softmax(live[0] @ live[1].T / temperature, -1)
    loss = (slopes * logp.gather(1, targets.clamp(min=0)[:, None])[:, 0].where(targets != -100, 0.0)).sum()
    return loss.detach(), *torch.autograd.grad(3 * loss, live)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("chunk_bytes", [2**21, None])
@pytest.mark.parametrize("from_logits", [False, True])
def test_gradients_in_forward(
    chunk_bytes: int | None, temperature: float, from_logits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one chunk, and in many, whose gradients make three products."""
    if from_logits:
        monkeypatch.setattr(in_forward, "can_take_exponentials", lambda *_tensors: False)
    x, weight, targets = head()
    slopes = torch.randn(len(x), device="cuda")
    options = {"temperature": temperature, "vocab_size": REAL, "chunk_bytes": chunk_bytes}
    loss, *_stats, by_x, by_weight = of_token_loss(x, weight, targets, slopes, **options)
    expected = exact_token_loss(x, weight[:REAL], targets, slopes, temperature)
    assert abs(float(loss - expected[0])) <= 5e-3
    assert_close(by_x, expected[1], 6e-3)
    assert_close(by_weight[:REAL], expected[2], 6e-3)
    assert by_weight[REAL:].abs().max() == 0 and by_x[7].abs().max() == 0


def test_a_row_is_trained_on_with_the_bits_it_was_scored_with() -> None:
    x, weight, targets = head()
    with torch.no_grad():
        scored = linear_logprob(x, weight, targets, temperature=0.7)
    trained = of_token_loss(x, weight, targets, torch.ones(len(x), device="cuda"), temperature=0.7)[1:4]
    assert all(torch.equal(a, b) for a, b in zip(scored, trained, strict=True))


def test_gradients_of_targets_that_are_nearly_certain_and_hardly_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first keep the digits of 1 - p, the others are written a second time; without a wait for the device."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x, weight, _targets = head(rows=64)
    x[:, 0], weight[:, 0], weight[5], weight[6] = 0.0, 0.0, 0.0, 0.0
    weight[5, 0], weight[6, 0] = 1.0, -1.0
    targets = torch.full((64,), 5, device="cuda")
    x[:32, 0], targets[32:] = 20.0, 6
    x[32:, 0] = torch.linspace(0, 400, 32, device="cuda").bfloat16()
    slopes = torch.randn(64, device="cuda")
    of_token_loss(x, weight, targets, slopes)  # compiles
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = of_token_loss(x, weight, targets, slopes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    expected = exact_token_loss(x, weight, targets, slopes)
    for part in (slice(0, 32), slice(32, 64)):
        assert_close(found[4][part], expected[1][part], 8e-3)
    assert_close(found[5], expected[2], 8e-3)


def test_a_16_bit_gradient_has_the_bits_of_the_float32_one_rounded() -> None:
    logits, targets = 5 * torch.randn(40, 30000, device="cuda"), torch.randint(30000, (40,), device="cuda")
    per_row = torch.randn(4, 40, device="cuda").unbind()
    apart, inside, kept = torch.empty_like(logits, dtype=torch.bfloat16), logits.clone(), logits.clone()
    rows.row_gradients_(inside, targets, *per_row, 0, 29990, 0.7)
    rows.row_gradients(logits, apart, targets, *per_row, 0, 29990, 0.7)
    assert torch.equal(apart, inside.bfloat16()) and torch.equal(logits, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forbidden_tokens_and_logits_that_are_no_numbers(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 9000, device="cuda").to(dtype)
    logits[0, 1000:6000], logits[2, 8999] = -torch.inf, torch.nan
    live, targets = logits.clone().requires_grad_(), torch.tensor([7, 7, 7], device="cuda")
    stats = logprob_entropy(live, targets, temperature=0.9)
    (stats.logprob_T + stats.entropy_T).sum().backward()
    kept = torch.cat([logits[0, :1000], logits[0, 6000:]]).double() / 0.9
    p = kept.softmax(0)
    assert abs(float(stats.entropy_T[0] + (p * p.log()).sum())) <= 2e-5
    assert live.grad[:2].isfinite().all() and live.grad[0, 1000:6000].abs().max() == 0
    assert all(x[2].isnan() for x in stats)


def test_both_linear_ops_compile_without_a_graph_break() -> None:
    x, weight, targets = head()

    def two_pass(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return linear_logprob(x, weight, targets, temperature=0.9).logprob_T.sum()

    def in_one(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        options = {"temperature": 0.9, "chunk_bytes": 2**23}
        return (
            2.0 * linear_token_loss(x, weight, targets, lambda lp, _rows: (lp.sum(), torch.ones_like(lp)), **options)[0]
        )

    for function in (two_pass, in_one):
        live = [t.clone().requires_grad_() for t in (x, weight)]
        expected = torch.autograd.grad(function(*live), live)
        found = torch.autograd.grad(torch.compile(function, backend="aot_eager", fullgraph=True)(*live), live)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b.double(), 6e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_kernels_run_where_their_tensors_are() -> None:
    x, weight, targets = (t.to("cuda:1") for t in head())
    with torch.no_grad():
        stats = linear_logprob(x, weight, targets)
        assert torch.cuda.current_device() == 0 and stats.logprob_T.device.index == 1
        logp = torch.log_softmax(x.double() @ weight.double().T, -1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    assert float((stats.logprob_T - logp.where(targets != -100, 0.0)).abs().max()) <= 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprob_of_logits(dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(64, 152064, device="cuda")).to(dtype)
    targets = torch.randint(152064, (64,), device="cuda")
    live, double = logits.clone().requires_grad_(), logits.double().requires_grad_()
    stats = logprob_entropy(live, targets, temperature=0.8)
    (stats.logprob_T + 0.3 * stats.entropy_T).sum().backward()
    logp = torch.log_softmax(double / 0.8, -1)
    (logp.gather(1, targets[:, None])[:, 0] - 0.3 * (logp.exp() * logp).sum(-1)).sum().backward()
    assert float((stats.logprob_T - logp.gather(1, targets[:, None])[:, 0]).abs().max()) <= 2e-5
    assert_close(live.grad, double.grad, 1e-5 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("ratio", ["none", "token", "sequence", "capped"])
@pytest.mark.parametrize("sequence_mask_ratio", ["geometric_mean", "worst_token"])
def test_policy_loss(ratio: str, sequence_mask_ratio: str) -> None:
    settings = LossSettings(
        ratio=ratio,
        dual_clip=3.0,
        tis_cap=2.0,
        kl_coef=0.1,
        entropy_coef=0.01,
        token_mask=(0.8, 1.3),
        sequence_mask=(0.999, 1.001) if sequence_mask_ratio == "geometric_mean" else (0.2, 3.0),
        sequence_mask_ratio=sequence_mask_ratio,
    )
    boundaries = torch.tensor([0, 1, 1, 3000, 8192], dtype=torch.int32, device="cuda")
    values = torch.randn(6, 8192, device="cuda") * 0.3
    weights = torch.rand(8192, device="cuda") * (torch.rand(8192, device="cuda") > 0.2)
    live, entropies = (values[i].clone().requires_grad_() for i in (0, 5))
    options = {"old_logprobs_R": values[2], "rollout_logprobs_R": values[3], "reference_logprobs_R": values[4]}
    result = policy_loss(live, values[1], weights, boundaries, settings, entropies_R=entropies, **options)
    result.loss.backward()
    double = values.double()
    loss, gradients, metrics = reference.loss_gradients_metrics(
        double[0], double[1], weights.double(), *double[2:], boundaries, settings
    )
    assert_close(result.loss[None], loss[None], 1e-5)
    assert_close(torch.stack([live.grad, entropies.grad]), gradients, 1e-5)
    assert_close(torch.stack(result.metrics), metrics, 1e-5)


@pytest.mark.parametrize("size", [1536, 3584])
def test_layer_parts(size: int) -> None:
    x, weight = torch.randn(500, size, device="cuda").bfloat16(), torch.randn(size, device="cuda").bfloat16()
    positions, angles = torch.arange(500, device="cuda") % 77, 6 * torch.rand(77, 64, device="cuda")

    def turned(t: torch.Tensor) -> torch.Tensor:
        a, b = t.view(500, -1, 128).chunk(2, -1)
        c, s = (f(angles.double())[positions][:, None] for f in (torch.cos, torch.sin))
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    pairs = [
        (lambda t: rmsnorm(t, weight), lambda t: t * (t.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight),
        (swiglu, lambda t: F.silu(t.chunk(2, -1)[0]) * t.chunk(2, -1)[1]),
        (lambda t: rope(t.view(500, -1, 128), angles.cos(), angles.sin(), positions), turned),
    ]
    for ours, exact in pairs:
        live, double = x.clone().requires_grad_(), x.double().requires_grad_()
        found, expected = ours(live), exact(double)
        assert_close(found, expected, 4e-3)
        upstream = torch.randn_like(expected)
        found.backward(upstream.bfloat16())
        expected.backward(upstream.bfloat16().double())
        assert_close(live.grad, double.grad, 6e-3)
