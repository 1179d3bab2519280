"""Products, launches and bytes of linear_logprob's paths, counted from the code that runs: no GPU is needed.

The drivers run on tensors without memory that call themselves a GPU's, and every operation is counted as it is called:
a product by its multiplications and additions, everything by the bytes that it reads and writes once. `least_ms` is the
time of the products at `--tflops` and of the other passes at `--tb-per-s`, one after the other, as they are launched.

Usage: python benchmarks/linear_traffic.py [--tokens 32768] [--hidden 3584] [--vocab 152064] [--units 132]
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from egrc_kernels.linear_logprob import chunks, fused, in_forward, sizes
from egrc_kernels.linear_logprob.triton import TILES
from egrc_kernels.logprob.shards import Shard
from torch.utils._python_dispatch import TorchDispatchMode

FREE = {"empty", "empty_like", "new_empty", "view", "slice", "t", "transpose", "permute", "detach", "select", "unbind"}
"""Launch nothing."""
PRODUCTS = ("mm", "addmm", "float32_product", "add_float32_product_")
WRITES_ONLY = ("copy_", "fill_", "zero_")


class OnGPU(torch.Tensor):
    """A tensor without memory that takes a GPU's path."""

    @property
    def is_cuda(self) -> bool:
        """Whatever its device."""
        return True


class Traffic(TorchDispatchMode):
    """Counts what is called in it."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.flop = Counter[str](), Counter[str](), 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        # sums in place with a wider result have no rule for tensors without memory
        result = kwargs["out"] if func is torch.ops.aten.addmm.dtype_out else func(*args, **kwargs)
        if name in FREE:
            return result
        self.launches[name] += 1
        for argument, value in zip(func._schema.arguments, [*args, *kwargs.values()], strict=False):
            if not isinstance(value, torch.Tensor):
                continue
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            is_read = not is_written or (name not in WRITES_ONLY and argument.name not in ("out", "gradients"))
            self.bytes[name] += (is_written + is_read) * value.numel() * value.itemsize
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and not any(r.alias_info for r in func._schema.returns):
                self.bytes[name] += value.numel() * value.itemsize
        if name in PRODUCTS:
            a, b = [x for x in args if isinstance(x, torch.Tensor)][-2:]
            self.flop += 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
        if name == "fused_linear_partials":
            self._add_fused(*args[:2])
        return result

    def _add_fused(self, hidden: torch.Tensor, weight: torch.Tensor) -> None:
        """The second launch, and the tiles' partials between the two: four float32 a row and tile, written and read."""
        self.launches["fused_linear_partials"] += 1
        self.bytes["fused_linear_partials"] += 2 * 16 * len(hidden) * -(-len(weight) // TILES[9].n)
        self.flop += 2.0 * hidden.shape[0] * hidden.shape[1] * weight.shape[0]


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("tokens", 32768), ("hidden", 3584), ("vocab", 152064), ("units", 132)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tflops", type=float, default=702.0, help="of a product: cuBLAS on an H100, 8192 rows")
    parser.add_argument("--tb-per-s", type=float, default=3.01, help="of a copy: an H100")
    options = parser.parse_args()
    for module in (chunks, in_forward):
        module.num_units = lambda _tensor: options.units
    paths = {name: _count(path, options) for name, path in _paths(options).items()}
    print(json.dumps({"options": vars(options), "paths": paths}, indent=1))


def _paths(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta").as_subclass(OnGPU)

    hidden, weight = make(options.tokens, options.hidden), make(options.vocab, options.hidden)
    targets, row = make(options.tokens, dtype=torch.int64), make(options.tokens, dtype=torch.float32)
    shard, size = Shard(0, options.vocab), sizes.MOST_BYTES
    context = SimpleNamespace(save_for_backward=lambda *_: None, mark_non_differentiable=lambda *_: None)

    def by_row(logprobs: torch.Tensor, _rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        return logprobs.sum(), logprobs

    def in_one() -> None:
        rest = (targets, by_row, 1.0, shard, None, *in_forward.rows_kept_and_at_a_time(hidden, weight, size))
        in_forward._LinearTokenLoss.forward(context, hidden, weight, *rest)
        in_forward.scaled(make(options.vocab, options.hidden, dtype=torch.float32), row[0], torch.bfloat16)

    return {
        "forward, fused": lambda: fused.fused_partials(hidden, weight, targets, shard, 1.0),
        "forward, chunks of rows": lambda: chunks.partials_by_rows(hidden, weight, targets, shard, 1.0, size),
        "backward, slices of columns": lambda: chunks.gradients_by_columns(
            hidden, weight, targets, row, row, None, None, shard, 1.0, size
        ),
        "gradients in forward": in_one,
    }


def _count(path: Callable[[], object], options: argparse.Namespace) -> dict[str, Any]:
    traffic = Traffic()
    with torch.no_grad(), traffic:
        path()
    passes = sum(count for name, count in traffic.bytes.items() if name not in (*PRODUCTS, "fused_linear_partials"))
    return {
        "launches": dict(traffic.launches.most_common()),
        "gigabytes": {name: round(count / 1e9, 2) for name, count in traffic.bytes.most_common() if count > 1e7},
        "tflop": traffic.flop / 1e12,
        "gigabytes_outside_of_products": passes / 1e9,
        "least_ms": traffic.flop / options.tflops / 1e9 + passes / options.tb_per_s / 1e9,
    }


if __name__ == "__main__":
    main()
