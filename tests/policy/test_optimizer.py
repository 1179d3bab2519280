"""The optimizer step: one norm, one wait for the device, megatron's arithmetic; torch's fused AdamW, here on a CPU."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from egrc_mega.checkpoint.store import CheckpointStore, load
from egrc_mega.errors import PolicyError
from egrc_mega.policy import optimizer as optim
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2

# isort: split
from megatron.core import utils as megatron_utils
from megatron.core.optimizer import clip_grads

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"))


def build(model_path: Path, **section: Any) -> Policy:
    return Policy(model_path, MegatronSection(**section), PolicySection())


def updated(policy: Policy, times: int) -> dict[str, torch.Tensor]:
    for _ in range(times):
        policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3)
    return {name: tensor.clone() for name, tensor in policy.export_hf()}


class Operations(TorchDispatchMode):
    """The names of all operations inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip_grad", [1e-3, 1e3, 0.0])
def test_norm_and_clipping_are_megatrons_to_the_bit(model_path: Path, clip_grad: float) -> None:
    policy = build(model_path, clip_grad=0.0)
    policy.update(ragged_samples(), 1.0, LossSection(), lr=0.0)
    policy.optimizer.prepare_grads()
    gradients = [p.grad for p in policy.optimizer.chained_optimizers[0].get_parameters()]
    norm = policy.optimizer.get_grad_norm()
    expected, _ = megatron_utils.local_multi_tensor_l2_norm(0, None, [gradients], False)
    assert norm == float(expected**2) ** 0.5
    scaled = [g * (clip_grad / (norm + 1e-6)) if 0 < clip_grad < norm else g.clone() for g in gradients]
    optim.clip(policy.optimizer, norm, clip_grad)
    assert all(torch.equal(a, b) for a, b in zip(gradients, scaled, strict=True))


@pytest.mark.parametrize("section", [{}, {"use_distributed_optimizer": False}, {"bf16": True}], ids=str)
def test_the_step_waits_for_the_device_once_and_computes_one_norm(
    model_path: Path, section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "takes_fused_adam", lambda: True)  # torch's plain AdamW reads every step count
    policy = build(model_path, clip_grad=1e-3, **section)
    norms = []
    original = clip_grads.l2_norm_impl
    monkeypatch.setattr(clip_grads, "l2_norm_impl", lambda *args: norms.append(1) or original(*args))
    with Operations() as seen:
        optim.step(policy.optimizer, optim.gradient_norm(policy.optimizer), 1e-3, policy.megatron)
    assert seen.names.count("_local_scalar_dense.default") == 1
    assert not [name for name in seen.names if name.startswith(("nonzero", "masked_select"))]
    assert norms == [1]


def test_the_fused_adam_is_adam(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = updated(build(model_path), 3)
    monkeypatch.setattr(optim, "takes_fused_adam", lambda: True)
    policy = build(model_path)
    fused = updated(policy, 3)
    assert {group["fused"] for group in policy.optimizer.param_groups} == {True}
    # Adam divides by the root of what may be the square of rounding
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("section", [{}, {"use_distributed_optimizer": False, "bf16": True}], ids=str)
def test_a_fused_run_resumes_bitwise_and_a_plain_one_does_not_become_fused(
    model_path: Path, tmp_path: Path, section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "takes_fused_adam", lambda: True)
    first = build(model_path, **section)
    updated(first, 2)
    CheckpointStore(tmp_path, keep=1).save(2, first, {})
    second = build(model_path, **section)
    load(tmp_path / "step_000002", second)
    expected = updated(first, 1)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in updated(second, 1).items())
    monkeypatch.setattr(optim, "takes_fused_adam", lambda: False)
    third = build(model_path, **section)
    load(tmp_path / "step_000002", third)
    assert {group["fused"] for group in third.optimizer.param_groups} == {False}


@pytest.mark.parametrize("grad_norm", [math.inf, -math.inf, math.nan])
def test_a_gradient_norm_that_is_no_number_moves_no_weight(grad_norm: float) -> None:
    def take_no_step() -> None:
        raise AssertionError("a step was taken")

    optimizer = SimpleNamespace(param_groups=[], step_with_ready_grads=take_no_step)
    with pytest.raises(PolicyError, match=r"gradient norm is -?(inf|nan): the step is not taken"):
        optim.step(optimizer, grad_norm, 1e-3, MegatronSection(clip_grad=0.0))  # type: ignore[arg-type]


def test_each_of_adams_moments_has_the_type_that_its_own_field_says(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {}
    monkeypatch.setattr(optim, "OptimizerConfig", lambda **fields: said.update(fields))
    monkeypatch.setattr(optim, "get_megatron_optimizer", lambda _config, _model: SimpleNamespace(chained_optimizers=[]))
    optim.build_optimizer([], MegatronSection(exp_avg_dtype="bf16", exp_avg_sq_dtype="fp16"))
    assert (said["exp_avg_dtype"], said["exp_avg_sq_dtype"]) == (torch.bfloat16, torch.float16)
