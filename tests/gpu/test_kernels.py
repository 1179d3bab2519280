"""The kernels on a GPU in bf16, against float64 on fresh random inputs; a row's bits whatever its company."""

import secrets

import pytest
import torch
import torch.nn.functional as F
from egrc_kernels.linear_logprob import linear_logprob, linear_token_loss
from egrc_kernels.logprob import logprob_entropy
from egrc_kernels.policy_loss import LossSettings, policy_loss, reference
from egrc_kernels.rmsnorm import rmsnorm
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import swiglu

SEED = secrets.randbits(31)


@pytest.fixture(autouse=True)
def fresh_inputs() -> None:
    print("seed", SEED)
    torch.manual_seed(SEED)


def assert_close(found: torch.Tensor, exact: torch.Tensor, bound: float) -> None:
    assert found.isfinite().all()
    assert float((found.double() - exact).norm() / exact.norm().clamp(min=1e-12)) <= bound


def head(rows: int = 300, hidden: int = 512, vocab: int = 20000) -> tuple[torch.Tensor, ...]:
    x = torch.randn(rows, hidden, device="cuda").bfloat16()
    weight = (2.5 / hidden**0.5 * torch.randn(vocab, hidden, device="cuda")).bfloat16()
    targets = torch.randint(vocab, (rows,), device="cuda")
    targets[7] = -100
    return x, weight, targets


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_linear_logprob_and_its_gradients(temperature: float) -> None:
    x, weight, targets = head()
    live = [t.clone().requires_grad_() for t in (x, weight)]
    stats = linear_logprob(*live, targets, temperature=temperature, vocab_size=19990, chunk_bytes=2**22)
    factors = torch.randn(2, len(x), device="cuda")
    (factors[0] * stats.logprob_T + factors[1] * stats.entropy_T).sum().backward()
    doubles = [t.double().requires_grad_() for t in (x, weight)]
    logp = torch.log_softmax((doubles[0] @ doubles[1].T)[:, :19990] / temperature, -1)
    chosen = logp.gather(1, targets.clamp(0, 19989)[:, None])[:, 0].where(targets != -100, 0.0)
    entropy = -(logp.exp() * logp).sum(-1)
    (factors[0] * chosen + factors[1] * entropy).sum().backward()
    is_real = targets < 19990
    # logits are float32: bf16 ones would be wrong by 1e-2
    assert float((stats.logprob_T - chosen).abs()[is_real].max()) <= 2e-5
    assert float((stats.entropy_T - entropy).abs().max()) <= 2e-5
    for found, exact in zip(live, doubles, strict=True):
        assert_close(found.grad, exact.grad, 6e-3)


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


def test_gradients_in_forward() -> None:
    x, weight, targets = head()
    live = [t.clone().requires_grad_() for t in (x, weight)]
    loss, _stats = linear_token_loss(*live, targets, lambda lp, _rows: (-lp.sum(), -torch.ones_like(lp)))
    loss.backward()
    other = [t.clone().requires_grad_() for t in (x, weight)]
    (-linear_logprob(*other, targets).logprob_T.sum()).backward()
    for a, b in zip(live, other, strict=True):
        assert_close(a.grad, b.grad.double(), 6e-3)


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


@pytest.mark.parametrize("ratio", ["none", "token", "sequence"])
def test_policy_loss(ratio: str) -> None:
    settings = LossSettings(ratio=ratio, dual_clip=3.0, tis_cap=2.0, kl_coef=0.1)
    boundaries = torch.tensor([0, 1, 1, 3000, 8192], dtype=torch.int32, device="cuda")
    values = torch.randn(6, 8192, device="cuda") * 0.3
    weights = torch.rand(8192, device="cuda") * (torch.rand(8192, device="cuda") > 0.2)
    live = values[0].clone().requires_grad_()
    options = {"old_logprobs_R": values[2], "rollout_logprobs_R": values[3], "reference_logprobs_R": values[4]}
    result = policy_loss(live, values[1], weights, boundaries, settings, **options)
    result.loss.backward()
    double = values.double()
    loss, gradient, metrics = reference.loss_gradient_metrics(
        double[0], double[1], weights.double(), double[2], double[3], double[4], None, boundaries, settings
    )
    assert_close(result.loss[None], loss[None], 1e-5)
    assert_close(live.grad, gradient, 1e-5)
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
