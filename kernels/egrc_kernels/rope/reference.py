"""Rotary embedding in plain PyTorch: the truth, and the path on a CPU."""

import torch


def rope(
    x_TND: torch.Tensor, cos_PE: torch.Tensor, sin_PE: torch.Tensor, positions_T: torch.Tensor, sign: float
) -> torch.Tensor:
    """Rotate by the angle of each token's position; `sign` -1 turns back, which is the gradient."""
    cos_T1E, sin_T1E = cos_PE[positions_T].unsqueeze(1), sign * sin_PE[positions_T].unsqueeze(1)
    size = 2 * cos_PE.shape[1]
    first, second = x_TND[..., :size].float().chunk(2, -1)
    turned = torch.cat([first * cos_T1E - second * sin_T1E, second * cos_T1E + first * sin_T1E], -1)
    return torch.cat([turned.to(x_TND.dtype), x_TND[..., size:]], -1)
