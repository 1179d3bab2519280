"""Which implementation runs, what torch knows of the ops, and their references against megatron's and transformers'."""

import ast
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from egrc_kernels import registry, trial
from egrc_kernels.linear_logprob import linear_logprob, linear_token_loss, ops, products
from egrc_kernels.logprob import logprob_entropy, rows
from egrc_kernels.masked_logprob import ops as masked_ops
from egrc_kernels.policy_loss import LossSettings, api, policy_loss, token_weights
from egrc_kernels.rmsnorm import api as norm_api
from egrc_kernels.rmsnorm import rmsnorm
from egrc_kernels.rope import api as rope_api
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import api as swiglu_api
from egrc_kernels.swiglu import swiglu
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode


def gpu_tensor(dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    """What the registry looks at, of a tensor on a GPU."""
    return SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device("cuda", 0))


def test_on_a_cpu_the_reference_runs_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not registry.uses_triton(torch.zeros(1))


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.VARIABLE, "cuda")
    with pytest.raises(ValueError, match="EGRC_KERNELS=cuda: must be one of auto, reference, triton"):
        registry.uses_triton(torch.zeros(1))


def test_kernels_that_cannot_run_are_an_error_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.VARIABLE, "triton")
    with pytest.raises(RuntimeError, match="EGRC_KERNELS=triton, but the tensors are on cpu; set it to auto"):
        rmsnorm(torch.zeros(1, 4), torch.ones(4))


@pytest.mark.parametrize(("capability", "runs"), [((9, 0), True), ((8, 0), True), ((7, 5), False)])
def test_a_gpu_takes_kernels_and_an_old_one_warns_once(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], runs: bool
) -> None:
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    registry._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [registry.uses_triton(gpu_tensor()) for _ in range(3)] == [runs] * 3
    assert len(caught) == (0 if runs else 1)
    monkeypatch.setenv(registry.VARIABLE, "reference")
    assert not registry.uses_triton(gpu_tensor())


@pytest.mark.parametrize("wanted", ["auto", "triton"])
def test_a_kernel_that_cannot_be_launched_is_an_obstacle_from_then_on(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv(registry.VARIABLE, wanted)
    monkeypatch.setattr(registry, "failures", failures := {})
    monkeypatch.setattr(trial, "failures", failures)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: gpu_tensor())
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1))
    monkeypatch.setattr(trial, "rmsnorm", _without_a_compiler)
    assert registry.uses_triton(gpu_tensor())
    trial.try_kernels(gpu_tensor().device)
    said = r"a kernel cannot be compiled or launched on cuda:0 \(RuntimeError: Failed to find C compiler.\)"
    registry._warn_once.cache_clear()
    if wanted == "auto":
        with pytest.warns(UserWarning, match=f"takes its PyTorch references: {said}") as warned:
            assert [registry.uses_triton(gpu_tensor()) for _ in range(3)] == [False] * 3
        assert len(warned) == 1
    else:
        with pytest.raises(RuntimeError, match=f"EGRC_KERNELS=triton, but {said}; set it to auto or reference"):
            registry.uses_triton(gpu_tensor())


def _without_a_compiler(*_: object) -> None:
    raise RuntimeError("Failed to find C compiler.\nPlease specify one")


def test_where_no_kernel_is_to_run_none_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.setattr(trial, "rmsnorm", _without_a_compiler)
    trial.try_kernels(torch.device("cpu"))
    assert registry.failures == {}


def test_a_launch_takes_the_device_of_its_first_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or nullcontext())
    launch = registry.launches_on_its_device(lambda first, other, *, third: (other, third))
    tensor = gpu_tensor()
    tensor.device = torch.device("cuda", 1)
    assert launch(tensor, 2, third=3) == (2, 3) and entered == [torch.device("cuda", 1)]
    assert launch(torch.zeros(1), 2, third=3) == (2, 3) and len(entered) == 1


@pytest.mark.parametrize("op", ["logprob", "linear_logprob", "policy_loss", "rmsnorm", "swiglu", "rope"])
def test_every_launcher_does(op: str, root: Path) -> None:
    source = (root / "kernels" / "egrc_kernels" / op / "triton.py").read_text()
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef) or "[(" not in ast.get_source_segment(source, function):
            continue
        decorators = {node.id for node in function.decorator_list if isinstance(node, ast.Name)}
        assert decorators == {"launches_on_its_device"}, function.name


def samples() -> list[tuple[object, tuple]]:
    """Every op that torch knows by name, with arguments."""
    logits, targets, ones = torch.randn(3, 10), torch.tensor([1, 2, -100]), torch.ones(3)
    x, weight, inverse = torch.randn(4, 6), torch.randn(6), torch.rand(4)
    heads, angles, positions = torch.randn(4, 2, 8), torch.rand(5, 3), torch.tensor([0, 1, 0, 4])
    boundaries = torch.tensor([0, 1, 3], dtype=torch.int32)
    settings = ("sequence", 0.2, 0.2, 3.0, 1.5, "product", 0.1, "k3", 0.01, [0.5, 2.0], None, "worst_token")
    return [
        (rows.row_partials, (logits, targets, 0, 9, 0.7)),
        (rows.row_gradients_, (logits, targets, ones, ones, ones, None, 0, 9, 0.7)),
        (rows.row_gradients, (logits, logits.bfloat16(), targets, ones, ones, ones, ones, 0, 9, 0.7)),
        (ops.linear_partials, (x, logits[:, :6].contiguous(), targets.new_zeros(4), 0, 3, 0.7, None, True)),
        (
            ops.linear_gradients,
            (x, weight[None], targets.new_zeros(4), *[inverse] * 2, inverse, None, 0, 1, 0.7, None, True),
        ),
        (products.float32_product, (x.bfloat16(), x.T.bfloat16())),
        (products.add_float32_product_, (torch.zeros(4, 4), x.bfloat16(), x.T.bfloat16())),
        (products.scaled, (x, torch.tensor(2.0), torch.bfloat16)),
        (masked_ops.pair_logits, (x, logits[:, :6].contiguous(), positions[:3], positions[:3], 0, 3)),
        (masked_ops.pair_gradients, (x, logits[:, :6].contiguous(), ones, positions[:3], positions[:3], 0, 3)),
        (api._loss_gradients_metrics, (*[ones] * 7, boundaries, *settings)),
        (api._loss_gradients_metrics, (*[ones] * 6, None, boundaries, *settings)),
        (norm_api._forward, (x, weight, 1e-6)),
        (norm_api._backward, (x, x, weight, inverse)),
        (swiglu_api._forward, (x,)),
        (swiglu_api._backward, (x[:, :3].contiguous(), x)),
        (rope_api._turn, (heads, angles, angles, positions, -1.0)),
    ]


@pytest.mark.parametrize("number", range(len(samples())))
def test_torch_sees_schema_and_shapes_of_every_op(number: int) -> None:
    op, arguments = samples()[number]
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


def test_every_op_compiles_without_a_graph_break() -> None:
    hidden, weight, targets = torch.randn(4, 6), torch.randn(10, 6), torch.tensor([1, 2, 3, -100])
    angles, boundaries = torch.rand(4, 1), torch.tensor([0, 4], dtype=torch.int32)

    def everything(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        x = rmsnorm(hidden, torch.ones(6))
        x = rope(x.view(4, 2, 3), angles.cos(), angles.sin(), torch.arange(4)).reshape(4, 6)
        x = torch.cat([swiglu(x), swiglu(x)], -1)
        stats = linear_logprob(x, weight, targets, temperature=0.7)
        again = logprob_entropy(x @ weight.T, targets, temperature=0.7)
        loss = policy_loss(stats.logprob_T, torch.ones(4), torch.ones(4), boundaries, LossSettings()).loss
        return loss + again.logprob_T.sum() + stats.entropy_T.sum()

    inputs = [x.clone().requires_grad_() for x in (hidden, weight)]
    expected = everything(*inputs)
    gradients = torch.autograd.grad(expected, inputs)
    found = torch.compile(everything, backend="aot_eager", fullgraph=True)(*inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, inputs), gradients)


def test_a_token_loss_compiles_whole_into_one_op_of_the_output_layer_each_way() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 6, generator=generator).requires_grad_() for n in (4, 10))
    targets, advantages, slopes = torch.tensor([1, 2, 3, -100]), *torch.randn(2, 4, generator=generator)
    graphs: list[str] = []

    def keep(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(module.code)
        return make_boxed_func(module.forward)

    def loss(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        def by_row(logprobs: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
            return -(advantages[rows] * logprobs.exp()).sum(), -advantages[rows] * logprobs.exp()

        value, stats = linear_token_loss(hidden, weight, targets, by_row, chunk_bytes=80, entropy_slopes_T=slopes)
        assert not stats.logprob_T.requires_grad and not stats.entropy_T.requires_grad
        return 3 * value + stats.logprob_T.sum()

    expected = loss(hidden, weight)
    gradients = torch.autograd.grad(expected, (hidden, weight))
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    found = torch.compile(loss, backend=backend, fullgraph=True)(hidden, weight)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (hidden, weight)), gradients)
    forward, backward = graphs
    assert forward.count("= torch.ops.egrc.") == 1 and "linear_partials" in forward
    assert backward.count("= torch.ops.egrc.") == 1 and "linear_gradients" in backward


def test_fake_16_bit_tensors_of_a_gpu_pass_both_ways_through_the_linear_ops() -> None:
    """torch 2.11 cannot trace a product added in float32 to 16-bit factors: it must stay inside an op."""
    with FakeTensorMode():
        hidden, weight, logits = (
            torch.empty(*s, device="cuda", dtype=torch.bfloat16) for s in ((4, 8), (16, 8), (4, 16))
        )
        targets, per_row = torch.empty(4, device="cuda", dtype=torch.int64), torch.empty(4, device="cuda")
        assert ops.linear_partials(hidden, weight, targets, 0, 16, 1.0, None, False).shape == (6, 4)
        both = ops.linear_gradients(hidden, weight, targets, per_row, per_row, None, None, 0, 16, 1.0, None, True)
        assert [(g.shape, g.dtype) for g in both] == [(x.shape, x.dtype) for x in (hidden, weight)]
        total = products.float32_product(logits.T, hidden)
        products.add_float32_product_(total, logits.T, hidden)
        assert total.dtype == torch.float32 and total.is_cuda
        assert products.scaled(total, total.sum(), torch.bfloat16).dtype == torch.bfloat16


def test_the_reference_is_transformers_loss() -> None:
    from transformers.loss.loss_utils import ForCausalLMLoss

    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 9, 40, generator=generator), torch.randint(40, (1, 9), generator=generator)
    labels[0, 3] = -100
    shifted = F.pad(labels, (0, 1), value=-100)[0, 1:]
    stats = logprob_entropy(logits[0], shifted)
    loss = -stats.logprob_T.sum() / (shifted != -100).sum()
    torch.testing.assert_close(loss, ForCausalLMLoss(logits, labels, vocab_size=40))


def test_the_reference_is_megatrons_vocab_parallel_cross_entropy(world_of_one: None) -> None:
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(9, 40, generator=generator), torch.randint(40, (9,), generator=generator)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    stats = logprob_entropy(ours, labels)
    # megatron's works in place
    expected = vocab_parallel_cross_entropy(theirs[:, None] * 1.0, labels[:, None])[:, 0]
    torch.testing.assert_close(-stats.logprob_T, expected)
    stats.logprob_T.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, -theirs.grad)


@pytest.mark.parametrize(
    ("reduction", "denominator", "expected"),
    [
        ("token-mean", None, [1 / 3, 0, 1 / 3, 1 / 3]),
        ("token-mean", 10.0, [0.1, 0, 0.1, 0.1]),
        ("sequence-mean", None, [1 / 3, 0, 1 / 6, 1 / 6]),
        ("sequence-sum", 4.0, [0.25, 0, 0.25, 0.25]),
    ],
)
def test_token_weights(reduction: str, denominator: float | None, expected: list[float]) -> None:
    weights = token_weights(torch.tensor([1, 0, 1, 1]), torch.tensor([0, 2, 2, 4]), reduction, denominator)
    torch.testing.assert_close(weights, torch.tensor(expected))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rmsnorm(torch.zeros(2, 3), torch.zeros(4)), r"weight_H must be \[3\]"),
        (lambda: rmsnorm(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3)), "must share float32"),
        (lambda: swiglu(torch.zeros(2, 3)), r"x must be \[\.\.\., 2 F\]"),
        (lambda: swiglu(torch.zeros(2, 4, dtype=torch.float64)), "got torch.float64"),
        (lambda: rope(torch.zeros(2, 3), *[torch.zeros(1, 1)] * 2, torch.zeros(2, dtype=torch.int64)), "heads, D"),
        (lambda: rope(torch.zeros(2, 1, 2), *[torch.zeros(1, 2)] * 2, torch.zeros(2).long()), "2 E <= 2"),
        (lambda: rope(torch.zeros(2, 1, 2), *[torch.zeros(1, 1)] * 2, torch.zeros(2).int()), "positions_T int64"),
        (lambda: LossSettings(ratio="tokens"), "ratio must be one of none, token, sequence, capped, got 'tokens'"),
        (lambda: LossSettings(dual_clip=0.5), "dual_clip must exceed 1"),
        (lambda: LossSettings(kl_coef=-0.1), "kl_coef must not be negative, got -0.1"),
        (
            lambda: policy_loss(torch.zeros(2), torch.zeros(3), torch.zeros(2), torch.tensor([0, 2]), LossSettings()),
            r"advantages_R must be float32 \[R\]",
        ),
        (
            lambda: policy_loss(*[torch.zeros(2)] * 3, torch.tensor([0, 2]), LossSettings(kl_coef=0.1)),
            "kl_coef needs reference_logprobs_R",
        ),
        (lambda: LossSettings(token_mask=(1.5, 2.0)), r"token_mask must be \[low, high\] with 0 <= low < 1 < high"),
        (lambda: LossSettings(sequence_mask_ratio="median"), "sequence_mask_ratio must be one of geometric_mean"),
        (lambda: logprob_entropy(torch.zeros(3, 2).T, torch.zeros(2).long()), "contiguous rows"),
        (lambda: token_weights(torch.ones(1), torch.tensor([0, 1]), "mean"), "token-mean, sequence-mean"),
    ],
)
def test_bad_input_is_refused_by_name(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
