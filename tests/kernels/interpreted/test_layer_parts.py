"""Norm, SwiGLU and rope in Triton's interpreter, forward and backward, against float64 autograd."""

import pytest
import torch
from egrc_kernels.rmsnorm import rmsnorm
from egrc_kernels.rmsnorm import triton as norm_kernels
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import swiglu
from egrc_kernels.swiglu import triton as swiglu_kernels


def assert_agrees_with_float64(op, double_op, inputs: list[torch.Tensor]) -> None:
    live = [x.clone().requires_grad_() for x in inputs]
    doubles = [x.double().requires_grad_() for x in inputs]
    found, expected = op(*live), double_op(*doubles)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(9))
    found.backward(upstream)
    expected.backward(upstream.double())
    for x, y in zip(live, doubles, strict=True):
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (3, 2, 64), (0, 16)])
def test_rmsnorm(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_kernels, "MAX_PROGRAMS", 3)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(*shape, generator=generator) * 3, torch.randn(shape[-1], generator=generator)]
    assert_agrees_with_float64(
        lambda x, w: rmsnorm(x, w, 1e-5),
        lambda x, w: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w,
        inputs,
    )


@pytest.mark.parametrize("shape", [(1, 2), (5, 66), (3, 2, 90), (0, 8)])
def test_swiglu(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swiglu_kernels, "BLOCK", 16)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 4
    assert_agrees_with_float64(swiglu, lambda x: torch.nn.functional.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1], [x])


@pytest.mark.parametrize(("heads", "dim", "half"), [(1, 2, 1), (3, 12, 6), (4, 16, 5)])
def test_rope_of_packed_sequences(heads: int, dim: int, half: int) -> None:
    generator = torch.Generator().manual_seed(2)
    positions = torch.tensor([0, 1, 2, 0, 0, 1, 2, 3])
    angles = torch.rand(5, half, generator=generator) * 6
    # a view, as a slice of q, k and v is
    x = torch.randn(8, heads, dim + 3, generator=generator)[..., :dim]

    def double(x: torch.Tensor) -> torch.Tensor:
        cos, sin = (f(angles.double())[positions][:, None] for f in (torch.cos, torch.sin))
        a, b = x[..., :half], x[..., half : 2 * half]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], -1)

    assert_agrees_with_float64(lambda x: rope(x, angles.cos(), angles.sin(), positions), double, [x])
