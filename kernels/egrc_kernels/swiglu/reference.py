"""SwiGLU in plain PyTorch: the truth, and the path on a CPU."""

import torch


def swiglu(x_TF: torch.Tensor) -> torch.Tensor:
    """[T, 2 F] -> [T, F]."""
    gate_TF, up_TF = x_TF.float().chunk(2, -1)
    return (torch.nn.functional.silu(gate_TF) * up_TF).to(x_TF.dtype)


def swiglu_backward(grad_TF: torch.Tensor, x_TF: torch.Tensor) -> torch.Tensor:
    """Gradient by x, [T, 2 F]."""
    gate_TF, up_TF = x_TF.float().chunk(2, -1)
    grad32_TF, sigmoid_TF = grad_TF.float(), gate_TF.sigmoid()
    grad_gate_TF = grad32_TF * up_TF * sigmoid_TF * (1 + gate_TF * (1 - sigmoid_TF))
    return torch.cat([grad_gate_TF, grad32_TF * gate_TF * sigmoid_TF], -1).to(x_TF.dtype)
