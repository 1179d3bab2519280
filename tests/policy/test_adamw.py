"""Steps of AdamW in float64: decay and no-decay groups, multipliers of rate and decay, clipping, a reset."""

from pathlib import Path
from typing import Any

import pytest
import torch

from egrc_mega.policy import optimizer as optim
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.policy.weights import gather_hf, local_parameters
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2

pytestmark = pytest.mark.usefixtures("world_of_one")

ADAM: dict[str, Any] = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_eps": 1e-3, "weight_decay": 0.3, "clip_grad": 0.0}
RATES = (1e-2, 3e-3, 2e-2)
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"))


def step(policy: Policy, rate: float) -> Tensors:
    """One update; the gradients of it, as the exported weights are named."""
    found: Tensors = {}

    def note(_stats: TokenStats) -> None:
        held = {name: p.main_grad for name, p in local_parameters(policy.pieces).items()}
        found.update({name: g.double().clone() for name, g in gather_hf(held, policy.architecture)})

    policy.update(ragged_samples(), 1.0, LossSection(), rate, inspect=note)
    return found


def weights(policy: Policy) -> Tensors:
    return {name: tensor.double().clone() for name, tensor in policy.export_hf()}


def decays(name: str) -> bool:
    """megatron-core's rule: matrices decay, biases and norms do not."""
    return not name.endswith("bias") and "norm" not in name


class Reference:
    """AdamW of Loshchilov and Hutter (1711.05101), in float64."""

    def __init__(self, start: Tensors) -> None:
        self.weights = start
        self.first = {name: torch.zeros_like(value) for name, value in start.items()}
        self.second = {name: torch.zeros_like(value) for name, value in start.items()}
        self.count = 0

    def step(self, gradients: Tensors, rate: float) -> None:
        self.count += 1
        b1, b2 = ADAM["adam_beta1"], ADAM["adam_beta2"]
        for name, gradient in gradients.items():
            self.first[name] = b1 * self.first[name] + (1 - b1) * gradient
            self.second[name] = b2 * self.second[name] + (1 - b2) * gradient**2
            mean = self.first[name] / (1 - b1**self.count)
            scale = (self.second[name] / (1 - b2**self.count)).sqrt() + ADAM["adam_eps"]
            decay = ADAM["weight_decay"] if decays(name) else 0.0
            self.weights[name] = self.weights[name] * (1 - rate * decay) - rate * mean / scale


def assert_moved_alike(found: Tensors, expected: Tensors, start: Tensors) -> None:
    for name, value in found.items():
        torch.testing.assert_close(value - start[name], expected[name] - start[name], rtol=1e-3, atol=2e-7, msg=name)


@pytest.mark.parametrize("distributed", [True, False])
def test_steps_are_adamws_with_decay_on_matrices_only(folder: Path, distributed: bool) -> None:
    policy = Policy(folder, MegatronSection(**ADAM, use_distributed_optimizer=distributed), PolicySection())
    start = weights(policy)
    assert len({decays(name) for name in start}) == 2
    reference = Reference(dict(start))
    for rate in RATES:
        reference.step(step(policy, rate), rate)
    assert_moved_alike(weights(policy), reference.weights, start)


def test_after_a_reset_the_moments_and_the_count_begin_anew(folder: Path) -> None:
    policy = Policy(folder, MegatronSection(**ADAM), PolicySection())
    step(policy, 1e-2)
    policy.reset_optimizer()
    start = weights(policy)
    reference = Reference(dict(start))
    reference.step(step(policy, 1e-2), 1e-2)
    assert_moved_alike(weights(policy), reference.weights, start)


def test_multipliers_of_a_group_scale_its_rate_and_its_decay(folder: Path) -> None:
    section = MegatronSection(**ADAM)
    policy = Policy(folder, section, PolicySection())
    for number, group in enumerate(policy.optimizer.param_groups):
        group["lr_mult"], group["wd_mult"] = 0.5 + number, 2.0 + number
    step(policy, 1e-2)
    for number, group in enumerate(policy.optimizer.param_groups):
        assert group["lr"] == pytest.approx(1e-2 * (0.5 + number))
        assert group["weight_decay"] == pytest.approx(0.3 * (2.0 + number))
    assert len(policy.optimizer.param_groups) >= 2


@pytest.mark.parametrize(("limit", "factor"), [(1e-3, 1e-3), (0.0, None), (1e9, None)])
def test_clipping_scales_all_gradients_by_one_factor(folder: Path, limit: float, factor: float | None) -> None:
    policy = Policy(folder, MegatronSection(**(ADAM | {"clip_grad": limit, "weight_decay": 0.0})), PolicySection())
    start = weights(policy)
    gradients = step(policy, 1e-2)
    norm = float(torch.stack([g.norm() for g in gradients.values()]).norm())
    scale = 1.0 if factor is None else min(1.0, factor / (norm + 1e-6))
    moved = weights(policy)
    for name, gradient in gradients.items():
        clipped = gradient * scale
        expected = -1e-2 * clipped / (clipped.abs() + ADAM["adam_eps"])
        torch.testing.assert_close(moved[name] - start[name], expected, rtol=2e-3, atol=2e-7, msg=name)
    assert optim.gradient_norm(policy.optimizer) >= 0
