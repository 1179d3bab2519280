"""Weight gradients added up in float32 inside the product, without Transformer Engine and without apex's extension.

megatron-core's linear layers look for an extension of apex by name. torch's own products can do the same: 16-bit
factors, and a float32 sum that they read and write in place. No micro-batch's share is then rounded to 16 bits, and the
gradient is neither written nor read a second time.
"""

import sys

import torch
from megatron.core.tensor_parallel import layers

NAME = "fused_weight_gradient_mlp_cuda"


def install() -> None:
    """Answer to the name of apex's extension inside megatron's linear layers; the extension itself stays, if there."""
    if not hasattr(layers, NAME):
        setattr(layers, NAME, sys.modules[__name__])
        layers._grad_accum_fusion_available = True


def wgrad_gemm_accum_fp32(input_TI: torch.Tensor, grad_output_TO: torch.Tensor, main_grad_OI: torch.Tensor) -> None:
    """Adds in place: main_grad += grad_output.T @ input, in place."""
    grad_output_OT = grad_output_TO.t()
    if input_TI.dtype == torch.float32:
        main_grad_OI.addmm_(grad_output_OT, input_TI)
    elif input_TI.is_cuda:
        torch.addmm(main_grad_OI, grad_output_OT, input_TI, out_dtype=torch.float32, out=main_grad_OI)
    else:
        main_grad_OI.addmm_(grad_output_OT.float(), input_TI.float())
