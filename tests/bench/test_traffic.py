"""What benchmarks/traffic.py counts is right, holds what was promised, and is what the repository keeps and says of it.

Not covered: what a cache saves or costs, and time.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from egrc_kernels.rmsnorm import rmsnorm

from egrc_mega.testing.traffic import counted

ELEMENTS = 32768 * 152064 / 1e9
"""Logits of the linear head, in billions."""
Rows = dict[tuple[str, str], dict]

pytestmark = pytest.mark.timeout(3100)
"""What hangs is ended; how long a busy machine takes is no verdict."""


@pytest.fixture(scope="module")
def found(root: Path) -> dict:
    command = [sys.executable, "-P", str(root / "benchmarks" / "traffic.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def rows(found: dict) -> Rows:
    return {(row["op"], row["way"]): row for row in found["rows"]}


def test_products_and_passes_are_counted_by_the_sizes_of_their_tensors() -> None:
    a, b = (torch.empty(*s, dtype=torch.bfloat16, device="meta") for s in ((64, 32), (32, 16)))
    with counted() as traffic:
        product = torch.mm(a, b, out_dtype=torch.float32)
        product.add_(1.0)
        product.t()[:3].copy_(product.t()[3:6])
    assert traffic.launches == {"mm": 1, "add_": 1, "copy_": 1}
    assert traffic.bytes == {"mm": 2 * (64 * 32 + 32 * 16) + 4 * 64 * 16, "add_": 8 * 64 * 16, "copy_": 8 * 3 * 64}
    assert traffic.flop == 2 * 64 * 32 * 16


def test_a_kernel_of_ours_is_counted_by_what_its_launcher_gives_it() -> None:
    x, weight = (torch.empty(*s, dtype=torch.bfloat16, device="meta", requires_grad=True) for s in ((10, 64), (64,)))
    with counted() as traffic:
        y = rmsnorm(x, weight)
    assert traffic.launches == {"rmsnorm._forward_kernel": 1}
    assert traffic.bytes["rmsnorm._forward_kernel"] == 2 * (2 * 10 * 64 + 64) + 4 * 10
    with counted() as traffic:
        y.backward(torch.empty_like(y))
    # a program for each row has a share of the weight's gradient; torch adds and rounds them
    assert traffic.launches == {"rmsnorm._backward_kernel": 1, "sum": 1, "_to_copy": 1}
    assert traffic.bytes["rmsnorm._backward_kernel"] == 2 * (3 * 10 * 64 + 64) + 4 * 10 + 4 * 10 * 64


def test_the_gradient_of_the_linear_head_moves_little_more_than_its_products_need(rows: Rows) -> None:
    assert rows["linear_logprob", "backward, slices of columns"]["times_the_floor"] <= 1.25
    # here the logits are read once more, for their sums
    assert rows["linear_logprob", "gradients in forward, from logits"]["times_the_floor"] <= 1.25
    for way in ("backward, slices of columns", "gradients in forward, from logits"):
        # 4 bytes read and 2 written: no float32 gradient in between
        gradients = rows["linear_logprob", way]["by_kernel"]["logprob._gradients_kernel"]
        assert abs(gradients["gigabytes"] - 6 * ELEMENTS) < 0.1
    in_forward = rows["linear_logprob", "gradients in forward, from logits"]["by_kernel"]
    assert in_forward["logprob._gradients_kernel"]["launches"] == 8
    assert "addmm" not in in_forward, "the weight's gradient is one product"


def test_the_fused_gradient_moves_at_most_a_quarter_more_than_its_products_operands_and_results(rows: Rows) -> None:
    """Each operand and each result counted once; and again each time that slices read or add to them."""
    row = rows["linear_logprob", "backward, fused"]
    operands, gradient = (32768 + 152064) * 3584 * 2 / 1e9, 2 * ELEMENTS
    assert row["gigabytes"] <= 1.25 * (3 * operands + 3 * gradient)
    assert row["times_the_floor"] <= 1.25 and row["times_its_products"] <= 1.25
    assert row["by_kernel"]["linear_logprob._gradients_kernel"]["launches"] == 3
    assert not any(name.startswith("logprob.") for name in row["by_kernel"]), "no pass over logits"


def test_exponentials_in_forward_are_written_by_one_product_and_read_by_two(rows: Rows) -> None:
    row = rows["linear_logprob", "gradients in forward"]
    assert row["times_its_products"] <= 1.25 and not any(name.startswith("logprob.") for name in row["by_kernel"])
    operands = (32768 + 152064) * 3584 * 2 / 1e9
    # beside them the weight's gradient in float32, which is rounded when its scale is known, and the tiles' sums
    assert 3 * 2 * ELEMENTS <= row["gigabytes"] <= 3 * 2 * ELEMENTS + 3 * operands + 12.5
    tiles = row["by_kernel"]["linear_logprob._tiles_kernel"]
    assert tiles["launches"] == 8, "of each four parts one, and one that ends at once"
    assert tiles["gigabytes"] == pytest.approx(2 * ELEMENTS + 4 * operands, rel=0.15)
    assert row["by_kernel"]["mm"]["launches"] == 2 and "addmm" not in row["by_kernel"]


def test_what_is_given_places_of_a_tensor_moves_no_more_than_those() -> None:
    table = torch.empty(1000, 8, device="meta")
    places = torch.empty(5, 1, dtype=torch.int64, device="meta")
    with counted() as traffic:
        found = table[:5].gather(1, places)
        table[:5].scatter_(1, places, found)
        table[places[:, 0]]
    assert traffic.bytes == {"gather": 5 * (4 + 4 + 8), "scatter_": 5 * (4 + 4 + 8), "index": 5 * (8 * 8 + 8)}


def test_beyond_its_products_a_gradient_of_the_linear_head_moves_the_one_pass_between_them(rows: Rows) -> None:
    """Of each logit four bytes are read and two of its gradient written; a quarter of the products' would be 2.8."""
    row = rows["linear_logprob", "backward, slices of columns"]
    products, beyond = row["gigabytes_of_products"], row["gigabytes"] - row["gigabytes_of_products"]
    assert 6 * ELEMENTS <= beyond <= 6 * ELEMENTS + 1.0
    assert (
        row["times_its_products"] == pytest.approx(row["gigabytes"] / products, abs=2e-3)
        and row["times_its_products"] <= 1.57
    )
    assert 0.25 * products < 3 * ELEMENTS


def test_a_loss_takes_three_launches_and_every_other_op_one_each_way(rows: Rows) -> None:
    loss = [rows["policy_loss", way]["launches"] for way in ("forward", "backward")]
    assert loss == [2, 1]
    for op in ("rmsnorm", "swiglu", "rope"):
        assert rows[op, "forward"]["launches"] == 1
        assert sum(k["launches"] for n, k in rows[op, "backward"]["by_kernel"].items() if n.startswith(op)) == 1
    for op in ("rmsnorm", "swiglu", "rope", "policy_loss", "logprob, 8192 rows"):
        assert rows[op, "forward"]["times_the_floor"] <= 1.01, op


def test_attention_is_one_launch_of_a_layers_forward(rows: Rows) -> None:
    launched = rows["layer", "forward"]["by_kernel"]
    attention = {name: kernel["launches"] for name, kernel in launched.items() if "attn" in name or "attention" in name}
    assert list(attention.values()) == [1], launched
    # query, key, value, output; gate and up are one product
    assert launched["mm"]["launches"] == 4
    assert rows["layer", "backward"]["by_kernel"]["addmm"]["launches"] == 4, "weights' gradients, summed in the product"


def test_the_linear_paths_are_what_their_readme_says(rows: Rows, root: Path) -> None:
    text = (root / "kernels" / "egrc_kernels" / "linear_logprob" / "README.md").read_text()
    for (op, way), row in rows.items():
        if op == "linear_logprob":
            assert round(row["tflop"] / 35.717) in (1, 3)
            assert f"| {row['least_ms']:.3g} ms |" in text, way


def test_what_is_kept_is_what_the_code_does(found: dict, root: Path) -> None:
    kept = json.loads((root / "benchmarks" / "results" / "cpu" / "traffic.json").read_text())
    if kept["versions"] == found["versions"]:
        assert kept == found
    else:  # another torch takes other steps between our kernels
        ours = [
            {(r["op"], r["way"]): r["by_kernel"] for r in one["rows"] if r["op"] not in ("layer", "linear_logprob")}
            for one in (kept, found)
        ]
        assert ours[0].keys() == ours[1].keys()
