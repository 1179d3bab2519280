"""Counts launches, bytes and products of code that runs on a GPU which is not here.

The code runs on tensors without memory (`torch.device("meta")`) that call themselves a GPU's; our ops take their Triton
path, and each launch is noted in place of being made. A launch moves every tensor that it is given once, read or
written: what a cache saves or costs beyond that is not counted.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from egrc_kernels import registry
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

from egrc_mega.testing.launches import Launch, noted_launches

FREE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view"}
"""torch's that launch nothing, besides views."""
FILLS = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
"""torch's that read nothing of the tensor that they are given."""
PRODUCTS = {"mm", "addmm", "addmm_", "bmm"}
OUR_PRODUCTS = {"linear_logprob._tiles_kernel", "linear_logprob._gradients_kernel"}
IDLE = {"exponentials_again"}
"""Ours that launch something which ends at once where, as usually, the device finds nothing for it to do."""
PLACES = {"gather", "index", "scatter_"}
"""torch's that read or write as much of a tensor as they are given places."""
WRITES_ONLY = {"copy_", "fill_", "zero_"}
"""torch's that do not read what they write to."""
WRITTEN = {
    "logprob._partials_kernel": {"partials"},
    "logprob._gradients_kernel": {"gradients"},
    "linear_logprob._tiles_kernel": {"partials", "exponentials"},
    "linear_logprob._gradients_kernel": {"gradients"},
    "linear_logprob._join_kernel": {"partials"},
    "policy_loss._policy_loss_kernel": {"gradients", "sums"},
    "policy_loss._totals_kernel": {"loss", "metrics"},
    "rmsnorm._forward_kernel": {"y", "inverses"},
    "rmsnorm._backward_kernel": {"grad_x", "grad_weights"},
    "swiglu._forward_kernel": {"y"},
    "swiglu._backward_kernel": {"grad_x"},
    "rope._rope_kernel": {"y"},
}
"""Our kernels -> arguments that they write; they read the others."""


@dataclass(slots=True)
class Traffic:
    """What was counted, by the name of a kernel or of torch's operation."""

    launches: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    flop: float = 0.0

    def bytes_of_products(self) -> int:
        """Operands and results of products, each time that they are read or written there."""
        return sum(count for name, count in self.bytes.items() if name in PRODUCTS | OUR_PRODUCTS)

    def minus(self, other: "Traffic") -> "Traffic":
        """What this has and the other has not."""
        return Traffic(self.launches - other.launches, self.bytes - other.bytes, self.flop - other.flop)


@contextmanager
def counted(units: int = 132) -> Iterator[Traffic]:
    """Inside, tensors without memory are a GPU's of that many processors, and what would run on it is counted."""
    traffic = Traffic()
    device = SimpleNamespace(major=9, multi_processor_count=units)
    on_gpu = property(lambda tensor: tensor.device.type == "meta")
    with ExitStack() as stack:
        for target, name, value in (
            (torch.Tensor, "is_cuda", on_gpu),
            (registry, "choice", lambda: "auto"),
            (registry, "_obstacle", lambda _tensor: None),
            (torch.cuda, "device", lambda _device: nullcontext()),
            (torch.cuda, "get_device_properties", lambda _device: device),
            (torch.cuda, "mem_get_info", lambda _device: (2**36, 2**36)),
            (torch.cuda, "memory_reserved", lambda _device: 0),
            (torch.cuda, "memory_allocated", lambda _device: 0),
        ):
            stack.enter_context(patch.object(target, name, value))
        launches = stack.enter_context(noted_launches())
        stack.enter_context(_Counting(traffic, launches))
        yield traffic


class _Counting(TorchDispatchMode):
    """Adds up what torch dispatches; our ops run their own code instead of their rule for shapes."""

    def __init__(self, traffic: Traffic, launches: list[Launch]) -> None:
        super().__init__()
        self.traffic, self.noted = traffic, launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "egrc":
            op = func._schema.name.split("::")[1]
            with self:
                result = OPDEFS[f"egrc::{op}"]._init_fn(*args, **kwargs)
            self._count_noted(is_idle=op in IDLE)
            return result
        with self:  # inside our ops nobody has taken those apart yet that are made of others
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        # a sum in place of products with a wider result has no rule for tensors without memory
        result = kwargs["out"] if func is torch.ops.aten.addmm.dtype_out else func(*args, **kwargs)
        name = func._schema.name.split("::")[1]
        if not (name in FREE or func.is_view):
            self._count_torch(func, name, args, kwargs, result)
        return result

    def _count_torch(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        traffic = self.traffic
        traffic.launches[name] += 1
        if name in PLACES:
            moved = kwargs.get("src", args[3]) if name == "scatter_" else result
            indices = [x for x in _flat(args[1:]) if x.dtype == torch.int64]
            traffic.bytes[name] += 2 * size(moved) + sum(map(size, indices))
            return
        given = dict(zip([argument.name for argument in func._schema.arguments], args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            is_read = name not in FILLS and (not is_written or (name not in WRITES_ONLY and argument.name != "out"))
            for tensor in _tensors(given.get(argument.name)):
                traffic.bytes[name] += (is_written + is_read) * size(tensor)
        if not any(r.alias_info for r in func._schema.returns):
            traffic.bytes[name] += sum(map(size, _tensors(result)))
        if name in PRODUCTS:
            a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
            traffic.flop += 2.0 * a.numel() * b.shape[-1]

    def _count_noted(self, is_idle: bool) -> None:
        traffic = self.traffic
        while self.noted:
            launch = self.noted.pop(0)
            traffic.launches[launch.name] += 1
            if is_idle:
                continue
            traffic.bytes[launch.name] += _bytes_of(launch)
            if launch.name in OUR_PRODUCTS:
                hidden, weight = launch.values["hidden"], launch.values["weight"]
                traffic.flop += 2.0 * hidden.numel() * len(weight) * _share_of_columns(launch)


def _bytes_of(launch: Launch) -> int:
    """A tensor that is given twice stands in for one that is not there."""
    written = WRITTEN[launch.name]
    tensors = {name: value for name, value in launch.values.items() if isinstance(value, torch.Tensor)}
    # of a tile's six numbers a row two are the same at temperature one
    tiles = {"_tiles_kernel": "partials", "_join_kernel": "tiles"}.get(launch.kernel.__name__)
    share = {tiles: 4 / 6} if launch.values.get("AT_ONE") else {}
    if "first_tile" in launch.values:
        columns = _share_of_columns(launch)
        share |= {"weight": columns, "gradients": columns, "exponentials": columns}
        share["partials"] = columns * share.get("partials", 1)
    ways = ([name for name in tensors if (name in written) == is_written] for is_written in (False, True))
    names = [name for way in ways for name in {id(tensors[name]): name for name in reversed(way)}.values()]
    return int(sum(size(tensors[name]) * share.get(name, 1) for name in names))


def _share_of_columns(launch: Launch) -> float:
    """Of a product that is taken in more than one launch: tiles with padding in them have one of their own."""
    values = launch.values
    first, end = (n * values["BLOCK_N"] for n in (values["first_tile"], values["first_tile"] + values["tiles_n"]))
    return (min(end, values["num_columns"]) - first) / values["num_columns"]


def size(tensor: torch.Tensor) -> int:
    """Bytes of its elements."""
    return tensor.numel() * tensor.itemsize


def _flat(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        yield from _tensors(value)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [x for x in value if isinstance(x, torch.Tensor)] if isinstance(value, (list, tuple)) else []
