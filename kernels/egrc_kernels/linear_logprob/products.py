"""Matrix products with a float32 result of factors in any dtype, alone and added to a sum; known to torch by name.

Not every torch can trace a product whose result has another dtype than its factors, least of all one added in place:
`torch.compile` and fake tensors see these names instead.
"""

import torch


def product_in_float32(a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    """The product a @ b with a float32 result: 16-bit logits would put 2 % of noise on a policy ratio."""
    if a_MK.dtype == torch.float32:
        return a_MK @ b_KN
    if a_MK.is_cuda:
        return torch.mm(a_MK, b_KN, out_dtype=torch.float32)
    return a_MK.float() @ b_KN.float()


def add_product_in_float32(sum_MN: torch.Tensor | None, a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    """The sum + a @ b in float32, in the sum's place; None: the sum begins."""
    if sum_MN is None:
        return product_in_float32(a_MK, b_KN)
    if a_MK.dtype == torch.float32:
        return sum_MN.addmm_(a_MK, b_KN)
    if a_MK.is_cuda:
        return torch.addmm(sum_MN, a_MK, b_KN, out_dtype=torch.float32, out=sum_MN)
    return sum_MN.addmm_(a_MK.float(), b_KN.float())


@torch.library.custom_op("egrc::float32_product", mutates_args=())
def float32_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The op by which torch knows `product_in_float32`."""
    return product_in_float32(a, b)


@float32_product.register_fake
def _(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.new_empty(a.shape[0], b.shape[1], dtype=torch.float32)


@torch.library.custom_op("egrc::add_float32_product_", mutates_args={"total"})
def add_float32_product_(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """The op by which torch knows `add_product_in_float32`."""
    add_product_in_float32(total, a, b)


@torch.library.custom_op("egrc::scaled", mutates_args=())
def scaled(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values times a scalar or a column, in a dtype: rounded once, and nothing is written in between."""
    result = torch.empty(x.shape, dtype=dtype, device=x.device)
    return torch.mul(x, scale, out=result)


@scaled.register_fake
def _(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(x.shape, dtype=dtype, device=x.device)
