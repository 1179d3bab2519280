"""Bytes and launches of every op and of one layer, counted from the code that runs, beside the floor: no GPU is needed.

The floor of an op reads each of its inputs once and writes each result once. The linear ops' floor is their products':
each operand and each result of a product is read or written by it, and once more by whoever makes or needs it between
two products. Beside it stands how many times as much is moved as torch's products read and write themselves. A layer's
floor is that of its ops and products. `least_ms` of the linear ops is the time of the products at `--tflops` and of
what else moves at `--tb-per-s`, one after the other, as they are launched.

Usage: python benchmarks/traffic.py [--tokens 32768] [--hidden 3584] [--vocab 152064] [--units 132] [--table]
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from egrc_kernels.linear_logprob import linear_token_loss, ops
from egrc_kernels.logprob import logprob_entropy
from egrc_kernels.policy_loss import LossSettings, policy_loss
from egrc_kernels.rmsnorm import rmsnorm
from egrc_kernels.rope import rope
from egrc_kernels.swiglu import swiglu

from egrc_mega.testing.traffic import Traffic, counted, size

BF16 = torch.bfloat16


@dataclass(frozen=True, slots=True)
class Row:
    """One op in one direction."""

    op: str
    way: str
    traffic: Traffic
    floor_bytes: float


def main() -> None:
    """Print one JSON object, or a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("tokens", 32768), ("hidden", 3584), ("vocab", 152064), ("units", 132)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--tflops", type=float, default=702.0, help="of a product: cuBLAS on an H100, 8192 rows")
    parser.add_argument("--tb-per-s", type=float, default=3.01, help="of a copy: an H100")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = [*linear_rows(options), *op_rows(options), *layer_rows()]
    if options.table:
        print(table(rows))
        return
    given = {name: value for name, value in vars(options).items() if name != "table"}
    versions = {name: version(name) for name in ("torch", "triton", "megatron-core")}
    kept = [figures(row, options) for row in rows]
    print(json.dumps({"versions": versions, "options": given, "rows": kept}, indent=1))


def figures(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """What is kept of a row."""
    traffic, total = row.traffic, sum(row.traffic.bytes.values())
    products = traffic.bytes_of_products()
    outside = total - products
    result: dict[str, Any] = {
        "op": row.op,
        "way": row.way,
        "launches": sum(traffic.launches.values()),
        "gigabytes": round(total / 1e9, 4),
        "floor_gigabytes": round(row.floor_bytes / 1e9, 4),
        "times_the_floor": round(total / row.floor_bytes, 3),
        "by_kernel": {
            name: {"launches": count, "gigabytes": round(traffic.bytes[name] / 1e9, 4)}
            for name, count in traffic.launches.most_common()
        },
    }
    if row.op == "linear_logprob":
        result["times_its_products"] = round(total / products, 3)
        result |= {
            "tflop": traffic.flop / 1e12,
            "gigabytes_of_products": round(products / 1e9, 2),
            "least_ms": traffic.flop / options.tflops / 1e9 + outside / options.tb_per_s / 1e9,
        }
    return result


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| op | way | launches | GB | floor, GB | times the floor | times its products |", "|---" * 7 + "|"]
    for row in rows:
        total = sum(row.traffic.bytes.values())
        launches, ratio = sum(row.traffic.launches.values()), total / row.floor_bytes
        figures = f"{launches} | {total / 1e9:.4g} | {row.floor_bytes / 1e9:.4g} | {ratio:.3g}"
        products = row.traffic.bytes_of_products()
        over = f"{total / products:.3g}" if row.op == "linear_logprob" else ""
        lines.append(f"| {row.op} | {row.way} | {figures} | {over} |")
    return "\n".join(lines)


def empty(*shape: int, dtype: torch.dtype = BF16, live: bool = False) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta", requires_grad=live)


def linear_rows(options: argparse.Namespace) -> Iterator[Row]:
    """The output layer with its log-probs, by each of its paths."""
    hidden, weight = empty(options.tokens, options.hidden), empty(options.vocab, options.hidden)
    targets, row = empty(options.tokens, dtype=torch.int64), empty(options.tokens, dtype=torch.float32)
    place = (0, options.vocab, 1.0, None)
    logits = options.tokens * options.vocab
    forward = size(hidden) + size(weight) + size(targets) + 6 * size(row)
    # float32 logits are written and read; their gradient in 16 bits is written, and read by two products
    in_chunks = forward + 8 * logits
    backward = 14 * logits + 3 * size(weight) + 3 * size(hidden)
    # with no logits in between: the gradient in 16 bits is written by one product and read by two
    fused_backward = 6 * logits + 3 * size(weight) + 3 * size(hidden)

    def in_one(entropy_slopes: torch.Tensor | None) -> None:
        live = [x.detach().requires_grad_() for x in (hidden, weight)]
        how = {"entropy_slopes_T": entropy_slopes}
        loss, _stats = linear_token_loss(*live, targets, lambda lp, _rows: (lp.sum(), lp), **how)
        loss.backward()

    for way, call, floor in (
        ("forward, fused", partial(ops.linear_partials, hidden, weight, targets, *place, True), forward),
        (
            "forward, chunks of rows",
            partial(ops.linear_partials, hidden, weight, targets, *place, False),
            in_chunks,
        ),
        (
            "backward, slices of columns",
            partial(ops.linear_gradients, hidden, weight, targets, row, row, None, None, *place, False),
            backward,
        ),
        (
            "backward, fused",
            partial(ops.linear_gradients, hidden, weight, targets, row, row, None, None, *place, True),
            fused_backward,
        ),
        ("gradients in forward", partial(in_one, None), fused_backward),
        ("gradients in forward, from logits", partial(in_one, row), backward + 4 * logits),
    ):
        with counted(options.units) as traffic:
            call()
        yield Row("linear_logprob", way, traffic, floor)


def op_rows(options: argparse.Namespace) -> Iterator[Row]:
    """The other ops at the sizes of the 7B model."""
    tokens, hidden, ffn, heads = options.tokens, options.hidden, 18944, 28
    x, weight, inverse = empty(tokens, hidden, live=True), empty(hidden, live=True), 4 * tokens
    norm = size(x) + size(weight) + inverse
    yield from both_ways("rmsnorm", lambda: rmsnorm(x, weight), norm + size(x), norm + 2 * size(x) + size(weight))
    gated = empty(tokens, 2 * ffn, live=True)
    yield from both_ways("swiglu", lambda: swiglu(gated), 1.5 * size(gated), 2.5 * size(gated))
    q = empty(tokens, heads, hidden // heads, live=True)
    cosines, sines = (empty(4096, hidden // heads // 2, dtype=torch.float32) for _ in range(2))
    positions = empty(tokens, dtype=torch.int64)
    turn = 2 * size(q) + size(cosines) + size(sines) + size(positions)
    yield from both_ways("rope", lambda: rope(q, cosines, sines, positions), turn, turn)
    logits, targets = empty(8192, options.vocab, live=True), empty(8192, dtype=torch.int64)
    row = 4 * 8192
    yield from both_ways(
        "logprob, 8192 rows",
        lambda: logprob_entropy(logits, targets, temperature=0.7).logprob_T,
        size(logits) + size(targets) + 3 * row,
        2 * size(logits) + size(targets) + 2 * row,
    )
    yield from loss_rows(tokens)


def loss_rows(tokens: int) -> Iterator[Row]:
    """The loss of 16 sequences with all that a trainer gives it."""
    live = empty(tokens, dtype=torch.float32, live=True)
    others = [empty(tokens, dtype=torch.float32) for _ in range(4)]
    boundaries = empty(17, dtype=torch.int32)

    def loss() -> torch.Tensor:
        advantages, weights, old, rollout = others
        settings = LossSettings(tis_cap=2.0)
        options = {"old_logprobs_R": old, "rollout_logprobs_R": rollout}
        return policy_loss(live, advantages, weights, boundaries, settings, **options).loss

    yield from both_ways("policy_loss", loss, 6 * size(live) + size(boundaries) + 28, 2 * size(live) + 4)


def both_ways(op: str, call: Callable[[], torch.Tensor], forward: float, backward: float) -> Iterator[Row]:
    """An op's rows, its floors given."""
    with counted() as traffic:
        output = call()
    yield Row(op, "forward", traffic, forward)
    upstream = torch.empty_like(output)
    with counted() as traffic:
        output.backward(upstream)
    yield Row(op, "backward", traffic, backward)


def layer_rows() -> Iterator[Row]:
    """One layer of the 1.5B model on 16384 ragged tokens: what a model of two layers does more than one of one."""
    from egrc_mega.testing.layer_traffic import LayerSizes, model_traffic

    sizes = LayerSizes()
    one, two = (model_traffic(replace(sizes, layers=layers)) for layers in (1, 2))
    for way in ("forward", "backward"):
        yield Row("layer", way, two[way].minus(one[way]), sizes.floor(way))


if __name__ == "__main__":
    main()
