"""Layer parts in plain PyTorch against float64 and autograd: what the kernels are held against must itself be right."""

import pytest
import torch
from egrc_kernels.rmsnorm import reference as norm
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import reference as gate


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("scale", "eps"), [(1.0, 1e-6), (1.0, 0.5), (1e-3, 1e-5), (0.0, 1e-6)])
def test_the_norm_and_its_gradients(scale: float, eps: float) -> None:
    x, weight, grad = random(5, 8, scale=scale), random(8), random(5, 8)
    y, inverse = norm.rmsnorm(x, weight, eps)
    grad_x, grad_weight = norm.rmsnorm_backward(grad, x, weight, inverse)
    exact_x, exact_weight = (t.double().requires_grad_() for t in (x, weight))
    expected = exact_x * (exact_x.square().mean(-1, keepdim=True) + eps).rsqrt() * exact_weight
    expected.backward(grad.double())
    torch.testing.assert_close(y.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad_x.double(), exact_x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad_weight.double(), exact_weight.grad, rtol=1e-5, atol=1e-5)


def test_the_gated_unit_and_its_gradient() -> None:
    x, grad = random(6, 10), random(6, 5)
    exact = x.double().requires_grad_()
    first, second = exact.chunk(2, -1)
    expected = first * first.sigmoid() * second
    expected.backward(grad.double())
    torch.testing.assert_close(gate.swiglu(x).double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gate.swiglu_backward(grad, x).double(), exact.grad, rtol=1e-5, atol=1e-6)


def test_the_rotation_is_by_the_angle_of_each_position_and_its_gradient_turns_back() -> None:
    angles = random(9, 2)
    positions = torch.tensor([0, 4, 8, 1])
    x, grad = random(4, 3, 6).requires_grad_(), random(4, 3, 6)
    found = rope(x, angles.cos(), angles.sin(), positions)
    found.backward(grad)
    exact = x.detach().double().requires_grad_()
    turn = torch.polar(torch.ones(4, 2, dtype=torch.float64), angles.double()[positions])[:, None]
    turned = torch.complex(exact[..., :2], exact[..., 2:4]) * turn
    expected = torch.cat([turned.real, turned.imag, exact[..., 4:]], -1)
    expected.backward(grad.double())
    torch.testing.assert_close(found.detach().double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)
