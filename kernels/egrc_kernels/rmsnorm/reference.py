"""The norm in plain PyTorch: the truth, and the path on a CPU."""

import torch


def rmsnorm(x_TH: torch.Tensor, weight_H: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(y [T, H], 1 / rms [T] in float32)."""
    x32_TH = x_TH.float()
    inverse_T = (x32_TH.square().mean(-1) + eps).rsqrt()
    return (x32_TH * inverse_T[:, None] * weight_H.float()).to(x_TH.dtype), inverse_T


def rmsnorm_backward(
    grad_TH: torch.Tensor, x_TH: torch.Tensor, weight_H: torch.Tensor, inverse_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by x and by the weight, in their dtypes."""
    grad32_TH, normal_TH = grad_TH.float(), x_TH.float() * inverse_T[:, None]
    scaled_TH = grad32_TH * weight_H.float()
    mean_T1 = (scaled_TH * normal_TH).mean(-1, keepdim=True)
    grad_x_TH = inverse_T[:, None] * (scaled_TH - normal_TH * mean_T1)
    return grad_x_TH.to(x_TH.dtype), (grad32_TH * normal_TH).sum(0).to(weight_H.dtype)
