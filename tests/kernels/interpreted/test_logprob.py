"""The Triton kernels of both log-prob ops in Triton's interpreter, against float64 autograd.

Not covered: bfloat16, races, speed (the interpreter has none of them); the compile gate and the GPU suite look there.
"""

from typing import Any

import numpy as np
import pytest
import torch
from egrc_kernels.linear_logprob import fused, join, linear_logprob, linear_token_loss
from egrc_kernels.linear_logprob import triton as fused_kernels
from egrc_kernels.logprob import logprob_entropy, rows, shards
from egrc_kernels.logprob import triton as row_kernels
from egrc_kernels.logprob.shards import Shard, row_stats

from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.kernel_worker import compare_interpreted_shards


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks a row at test sizes, the last one partly empty."""
    monkeypatch.setattr(row_kernels, "PARTIALS_BLOCK", 64)
    monkeypatch.setattr(row_kernels, "GRADIENTS_BLOCK", 64)
    monkeypatch.setattr(fused_kernels, "GROUP_M", 2)
    monkeypatch.setattr(join, "JOIN_ROWS", 16)
    monkeypatch.setattr(join, "JOIN_TILES", 4)


def exact(logits: torch.Tensor, targets: torch.Tensor, temperature: float) -> tuple[torch.Tensor, ...]:
    logp, logp_one = (torch.log_softmax(logits.double() / t, dim=-1) for t in (temperature, 1.0))
    is_labelled = targets >= 0
    chosen = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0].where(is_labelled, 0.0)
    return chosen, *(-(p.exp() * p).sum(-1) for p in (logp, logp_one))


def assert_close(found: torch.Tensor, expected: torch.Tensor, largest_logit: float) -> None:
    """Relative L2; numbers as large as the largest logit are rounded four times: 1 / t, times it, log-sum, minus it."""
    bound = 2e-6 + 4 * torch.finfo(torch.float32).eps / 2 * largest_logit
    found, expected = found.detach().double(), expected.detach()
    assert float((found - expected).norm() / expected.norm().clamp(min=1e-3)) <= bound


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.2])
@pytest.mark.parametrize(
    ("num_rows", "columns", "scale"), [(1, 1, 1.0), (5, 41, 1.0), (4, 200, 9.0), (3, 130, 30.0), (2, 64, 90.0)]
)
def test_logits_values_and_all_gradients(num_rows: int, columns: int, scale: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(columns)
    logits = (torch.randn(num_rows, columns, generator=generator) * scale).clamp(-90, 90)
    targets = torch.randint(columns, (num_rows,), generator=generator)
    if num_rows > 2:
        targets[1] = -100
    factors = torch.randn(2, num_rows, generator=generator)
    live, double = logits.clone().requires_grad_(), logits.double().requires_grad_()
    stats = logprob_entropy(live, targets, temperature=temperature)
    expected = exact(double, targets, temperature)
    largest = float(logits.abs().max()) / temperature
    for found, value in zip(stats, expected, strict=True):
        assert_close(found, value, largest)
    (stats.logprob_T * factors[0] + stats.entropy_T * factors[1]).sum().backward()
    (expected[0] * factors[0] + expected[1] * factors[1]).sum().backward()
    assert live.grad is not None and double.grad is not None
    assert_close(live.grad, double.grad, largest)


def test_the_gradient_takes_the_logits_place_when_asked() -> None:
    logits = torch.randn(4, 100, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([0, 99, 5, -100])
    apart, inside = logits.detach().clone().requires_grad_(), logits.detach().clone().requires_grad_()
    logprob_entropy(apart, targets).logprob_T.sum().backward()
    logprob_entropy(inside, targets, overwrites_logits=True).logprob_T.sum().backward()
    assert torch.equal(inside.grad, apart.grad)
    assert torch.equal(inside.detach(), inside.grad)
    assert inside.grad[3].abs().max() == 0


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_shards_with_padding_join_to_the_whole(num_shards: int) -> None:
    """Targets of the next shard fall on padded columns of this one by their local number."""
    vocab, width = 150, 160 // num_shards
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 160, generator=generator) * 5
    logits[:, vocab:] = 1e4
    targets = torch.tensor([0, 149, 40, 41, 80, 119])
    parts = []
    for rank in range(num_shards):
        start = rank * width
        num_real = min(width, max(0, vocab - start))
        parts.append(rows.row_partials(logits[:, start : start + width].contiguous(), targets, start, num_real, 0.8))
    stats = row_stats(shards.merge(parts, 0.8), targets, 0.8, None)
    found = (stats.logprob_T, stats.entropy_T, stats.entropy_at_one_T)
    for value, expected in zip(found, exact(logits[:, :vocab], targets, 0.8), strict=True):
        assert_close(value, expected, float(logits[:, :vocab].abs().max()))


def test_every_output_is_written() -> None:
    """Memory that holds NaN before comes out clean, rows without a target included."""
    logits, targets = torch.randn(3, 70), torch.tensor([-100, 3, 69])
    poisoned = torch.full((3, 80), torch.nan)
    row_kernels.row_gradients(
        torch.cat([logits, torch.full((3, 10), torch.nan)], 1),
        poisoned,
        targets,
        torch.logsumexp(logits, 1),
        torch.tensor([0.0, 1.0, -2.0]),
        None,
        None,
        0,
        70,
        1.0,
    )
    assert poisoned.isfinite().all()
    assert poisoned[:, 70:].abs().max() == 0


def test_a_logit_that_is_no_number_is_not_hidden() -> None:
    logits = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    logits[1, 70] = torch.nan
    live = logits.requires_grad_()
    stats = logprob_entropy(live, torch.tensor([5, 5]))
    for found in stats:
        assert found[0].isfinite() and found[1].isnan()
    stats.logprob_T.sum().backward()
    assert live.grad is not None
    assert live.grad[0].isfinite().all() and live.grad[1].isnan().all()


@pytest.mark.parametrize("columns", [30, 200])
def test_tokens_forbidden_by_minus_infinity_count_as_columns_that_are_not_there(columns: int) -> None:
    generator = torch.Generator().manual_seed(3)
    logits, targets = 5 * torch.randn(4, columns, generator=generator), torch.tensor([0, 4, -100, 7])
    forbidden = torch.arange(columns) % 3 == 2
    forbidden[64:128] = True  # a whole block
    masked = logits.masked_fill(forbidden, -torch.inf).requires_grad_()
    double = logits.double().requires_grad_()
    found = logprob_entropy(masked, targets, temperature=0.7)
    places = forbidden.logical_not().cumsum(0)[targets.clamp(min=0)] - 1
    expected = exact(double[:, ~forbidden], places.where(targets >= 0, -100), 0.7)
    for value, exact_value in zip(found, expected, strict=True):
        assert_close(value, exact_value, 20.0)
    (found.logprob_T + 0.3 * found.entropy_T).sum().backward()
    (expected[0] + 0.3 * expected[1]).sum().backward()
    assert masked.grad is not None
    assert_close(masked.grad, double.grad, 20.0)


def test_the_fused_forward_leaves_tritons_allocator_to_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton
    from triton.runtime import _allocation

    def own(size: int, _align: int, _stream: int | None) -> torch.Tensor:
        raise AssertionError(size)

    triton.set_allocator(own)
    seen = []
    fused_kernels._with_scratch(torch.device("cpu"), lambda: seen.append(_allocation._allocator.get()(8, 1, None)))
    assert [x.numel() for x in seen] == [8]
    assert _allocation._allocator.get() is own


@pytest.mark.parametrize("has_entropy", [False, True])
def test_a_gradient_apart_has_the_bits_of_the_one_in_place(has_entropy: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    logits, targets = 5 * torch.randn(4, 150, generator=generator), torch.tensor([0, 149, -100, 7])
    per_row = list(torch.randn(4, 4, generator=generator).unbind())
    if not has_entropy:
        per_row[3] = None
    inside, kept = logits.clone(), logits.clone()
    rows.row_gradients_(inside, targets, *per_row, 0, 140, 0.7)
    # the interpreter truncates to bfloat16; to float16 it rounds
    for dtype in (torch.float32, torch.float16):
        apart = torch.full_like(logits, torch.nan, dtype=dtype)
        rows.row_gradients(logits, apart, targets, *per_row, 0, 140, 0.7)
        assert torch.equal(apart, inside.to(dtype)) and torch.equal(logits, kept)


def test_no_float32_gradient_is_made_beside_16_bit_states(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def spy(logits: torch.Tensor, gradients: torch.Tensor, *rest: object) -> None:
        written.append(gradients.dtype)
        return row_gradients(logits, gradients, *rest)

    row_gradients = row_kernels.row_gradients
    monkeypatch.setattr(row_kernels, "row_gradients", spy)
    hidden, weight = (torch.randn(n, 16).half().requires_grad_() for n in (9, 70))
    targets = torch.arange(9)
    linear_logprob(hidden, weight, targets).logprob_T.sum().backward()
    linear_token_loss(hidden, weight, targets, lambda lp, _rows: (lp.sum(), torch.ones_like(lp)))
    assert written and set(written) == {torch.float16}


@pytest.mark.parametrize(("num_rows", "columns", "size"), [(1, 1, 8), (37, 200, 32), (70, 336, 36)])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_fused_forward_agrees_with_float64(num_rows: int, columns: int, size: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(columns)
    hidden = torch.randn(num_rows, size, generator=generator)
    weight = torch.randn(columns, size, generator=generator)
    targets = torch.randint(columns, (num_rows,), generator=generator)
    assert fused.can_fuse(hidden, weight)
    with torch.no_grad():
        stats = linear_logprob(hidden, weight, targets, temperature=temperature, vocab_size=columns)
    logits = hidden.double() @ weight.double().T
    for found, value in zip(stats, exact(logits, targets, temperature), strict=True):
        assert_close(found, value, 2 * float(logits.abs().max()) / temperature)


@pytest.fixture
def fused_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter rounds a product before it adds; a GPU does not."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def fma(_self: object, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        exact = x.data.astype(np.float64) * y.data + z.data
        return TensorHandle(exact.astype(np.float32), z.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_fma", fma)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_fused_forward_leaves_padding_out_and_joins_shards(temperature: float, fused_multiply: None) -> None:
    """Of the whole's four tiles one is padding in part and one altogether; of the second shard every column is."""
    generator = torch.Generator().manual_seed(8)
    hidden, weight = torch.randn(37, 32, generator=generator), torch.randn(200, 32, generator=generator)
    weight[150:] = 1e3
    targets = torch.randint(150, (37,), generator=generator)
    targets[:4] = torch.tensor([0, 127, 128, 149])
    expected = exact((hidden.double() @ weight.double().T)[:, :150], targets, temperature)
    whole = fused.fused_partials(hidden, weight, targets, Shard(0, 150), temperature)
    parts = [
        fused.fused_partials(hidden, weight[start : start + 50].contiguous(), targets, Shard(start, real), temperature)
        for start, real in ((0, 50), (50, 50), (100, 50), (150, 0))
    ]
    for partials in (whole, shards.merge(parts, temperature)):
        stats = row_stats(partials, targets, temperature, None)
        for found, value in zip((stats.logprob_T, stats.entropy_T, stats.entropy_at_one_T), expected, strict=True):
            assert_close(found, value, 80.0)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("offset", [0, 3000, -3000])
def test_one_multiply_before_the_exponential_costs_no_digits_far_from_zero(
    offset: int, temperature: float, fused_multiply: None
) -> None:
    """Logits are whole numbers, exact in float32: what is off is the sums' alone."""
    generator = torch.Generator().manual_seed(9)
    hidden, weight = torch.zeros(5, 32), torch.zeros(100, 32)
    hidden[:, 0], hidden[:, 1] = 1, torch.arange(1, 6)
    weight[:, 0], weight[:, 1] = offset, torch.randint(-3, 4, (100,), generator=generator)
    targets = torch.arange(5)
    found = fused.fused_partials(hidden, weight, targets, Shard(0, 100), temperature).double()
    logits = hidden.double() @ weight.double().T
    assert torch.equal(found[0], logits.amax(1)) and torch.equal(found[1], logits.gather(1, targets[:, None])[:, 0])
    d = logits - logits.amax(1, keepdim=True)
    for place, t in ((2, temperature), (4, 1.0)):
        e = (d / t).exp()
        torch.testing.assert_close(found[place], e.sum(1), rtol=1e-6, atol=0)
        torch.testing.assert_close(found[place + 1], (e * d / t).sum(1), rtol=2e-6, atol=0)


def test_a_row_alone_finds_its_target_wherever_in_a_tile_it_lies() -> None:
    """Beside others a row's tile is searched for the sake of any of them."""
    generator = torch.Generator().manual_seed(10)
    hidden, weight = torch.randn(1, 32, generator=generator), torch.randn(150, 32, generator=generator)
    logits = hidden.double() @ weight.double().T
    for target in (0, 63, 64, 127, 128, 149):
        found = fused.fused_partials(hidden, weight, torch.tensor([target]), Shard(0, 150), 1.0)
        torch.testing.assert_close(found[1].double(), logits[:, target], rtol=1e-5, atol=1e-5)


def test_a_fused_row_does_not_depend_on_its_company() -> None:
    generator = torch.Generator().manual_seed(5)
    hidden, weight = torch.randn(70, 32, generator=generator), torch.randn(100, 32, generator=generator)
    targets = torch.randint(100, (70,), generator=generator)
    shard = Shard(0, 100)
    whole = fused.fused_partials(hidden, weight, targets, shard, 0.7)
    # three tiles of rows are a group of two and one of one; alone, a row has a group of its own
    for chosen in ([3], [69, 3], list(range(64, 70)), list(range(40))):
        part = fused.fused_partials(hidden[chosen].contiguous(), weight, targets[chosen], shard, 0.7)
        assert torch.equal(part, whole[:, chosen])


def test_many_rows_are_fused_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(6)
    hidden, weight = torch.randn(40, 16, generator=generator), torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (40,), generator=generator)
    whole = fused.fused_partials(hidden, weight, targets, Shard(0, 50), 1.0)
    monkeypatch.setattr(fused, "MAX_ROWS", 16)
    assert torch.equal(fused.fused_partials(hidden, weight, targets, Shard(0, 50), 1.0), whole)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("has_entropy", [False, True])
@pytest.mark.parametrize(
    ("num_rows", "columns", "size", "real", "chunk_rows"),
    [(1, 1, 8, 1, None), (37, 200, 32, 150, None), (70, 336, 36, 333, 70), (5, 130, 16, 127, 3)],
)
def test_fused_gradients_agree_with_float64(
    num_rows: int, columns: int, size: int, real: int, chunk_rows: int | None, has_entropy: bool, temperature: float
) -> None:
    """Whole, and in slices of columns that end within a tile; with padding columns and rows without a target."""
    generator = torch.Generator().manual_seed(columns)
    hidden, weight = (torch.randn(n, size, generator=generator) for n in (num_rows, columns))
    weight[real:] = 1e3
    targets = torch.randint(real, (num_rows,), generator=generator)
    targets[num_rows // 2 :: 5] = -100
    targets[-1] = real - 1
    factors = torch.randn(2, num_rows, generator=generator)
    factors[1] *= has_entropy
    live = [x.clone().requires_grad_() for x in (hidden, weight)]
    chunk_bytes = chunk_rows and 4 * num_rows * 50
    options = {"temperature": temperature, "vocab_size": real, "chunk_bytes": chunk_bytes, "fuses_gradients": True}
    stats = linear_logprob(*live, targets, **options)
    weighted = stats.logprob_T * factors[0] + (stats.entropy_T * factors[1] if has_entropy else 0)
    weighted.sum().backward()
    doubles = [x.double().requires_grad_() for x in (hidden, weight)]
    logits = (doubles[0] @ doubles[1].T)[:, :real]
    expected = exact(logits, targets, temperature)
    (expected[0] * factors[0] + expected[1] * factors[1]).sum().backward()
    largest = 2 * float(logits.detach().abs().max()) / temperature
    for found, value in zip(stats, expected, strict=True):
        assert_close(found, value, largest)
    for found, value in zip(live, doubles, strict=True):
        assert_close(found.grad, value.grad, largest)
    assert live[1].grad is not None and (real == columns or live[1].grad[real:].abs().max() == 0)


def test_fused_gradients_are_the_launchers_and_no_logits_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, dtypes = [], []

    def spy(*arguments: Any, **options: Any) -> torch.Tensor:
        gradient = fused_gradients(*arguments, **options)
        shapes.append(tuple(gradient.shape))
        dtypes.append(gradient.dtype)
        return gradient

    fused_gradients = fused_kernels.fused_gradients
    monkeypatch.setattr(fused_kernels, "fused_gradients", spy)
    for name in ("row_partials", "row_gradients"):
        monkeypatch.setattr(row_kernels, name, None)
    hidden, weight = (torch.randn(n, 16).half().requires_grad_() for n in (9, 70))
    # of float32 logits ten columns, of 16-bit gradients in as much memory and half as much again thirty
    stats = linear_logprob(hidden, weight, torch.arange(9), chunk_bytes=4 * 9 * 10, fuses_gradients=True)
    stats.logprob_T.sum().backward()
    assert shapes == [(9, 30), (9, 30), (9, 10)] and set(dtypes) == {torch.float16}


def test_a_row_that_is_scored_and_then_trained_on_has_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(11)
    hidden, weight = torch.randn(40, 16, generator=generator), torch.randn(70, 16, generator=generator)
    targets = torch.randint(70, (40,), generator=generator)
    with torch.no_grad():
        scored = linear_logprob(hidden, weight, targets, temperature=0.7)
    live, chosen = hidden.clone().requires_grad_(), [39, 3, 17]
    options = {"temperature": 0.7, "fuses_gradients": True}
    trained = linear_logprob(live[chosen], weight, targets[chosen], **options)
    assert all(torch.equal(a[chosen], b.detach()) for a, b in zip(scored, trained, strict=True))
    (trained.logprob_T.sum() + 0.1 * trained.entropy_T.sum()).backward()
    whole = hidden.clone().requires_grad_()
    stats = linear_logprob(whole, weight, targets, **options)
    (stats.logprob_T[chosen].sum() + 0.1 * stats.entropy_T[chosen].sum()).backward()
    assert live.grad is not None and whole.grad is not None and torch.equal(live.grad[chosen], whole.grad[chosen])


@pytest.mark.parametrize("fuses", [False, True])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logits_too_small_for_float32_count_as_columns_that_are_not_there(fuses: bool, temperature: float) -> None:
    """Minus infinity: forward without and with gradient, and every gradient, are those of the other columns."""
    generator = torch.Generator().manual_seed(12)
    hidden, weight = torch.randn(5, 16, generator=generator), torch.randn(200, 16, generator=generator)
    hidden[:, 0], weight[:, 0] = 1e20, 0.0
    forbidden = torch.arange(200) % 3 == 2
    forbidden[64:128] = True  # a whole tile
    weight[forbidden, 0] = -1e20
    targets = torch.tensor([0, 4, -100, 7, 199])
    live = [x.clone().requires_grad_() for x in (hidden, weight)]
    options = {"temperature": temperature, "fuses_gradients": fuses}
    found = linear_logprob(*live, targets, **options)
    doubles = [x.double().requires_grad_() for x in (hidden, weight)]
    expected = exact(doubles[0] @ doubles[1].T, targets, temperature)
    with torch.no_grad():
        scored = linear_logprob(hidden, weight, targets, temperature=temperature)
    for value, alone, exact_value in zip(found, scored, expected, strict=True):
        assert_close(value, exact_value, 40.0)
        assert_close(alone, exact_value, 40.0)
    for stats in (found, expected):
        (stats[0] + 0.3 * stats[1]).sum().backward()
    for value, exact_value in zip(live, doubles, strict=True):
        assert value.grad is not None and exact_value.grad is not None
        assert_close(value.grad[:, 1:], exact_value.grad[:, 1:], 40.0)


def test_fused_gradients_of_a_logit_that_is_no_number_are_none() -> None:
    generator = torch.Generator().manual_seed(13)
    hidden, weight = torch.randn(3, 16, generator=generator), torch.randn(70, 16, generator=generator)
    hidden[1, 5] = torch.nan
    live = hidden.clone().requires_grad_()
    stats = linear_logprob(live, weight, torch.tensor([3, 4, 69]), fuses_gradients=True)
    (stats.logprob_T + stats.entropy_T).sum().backward()
    assert live.grad is not None
    for found in (*stats, live.grad.sum(1)):
        assert found[[0, 2]].isfinite().all() and found[1].isnan()


@pytest.mark.parametrize("has_entropy", [False, True])
@pytest.mark.parametrize("real", [0, 90, 100])
def test_a_fused_gradient_writes_every_place(has_entropy: bool, real: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that holds NaN before comes out clean, padding and rows without a target included."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *s, **o: empty(*s, **o).fill_(torch.nan))
    generator = torch.Generator().manual_seed(14)
    hidden, weight = torch.randn(37, 16, generator=generator), torch.randn(100, 16, generator=generator)
    targets, per_row = torch.arange(37), torch.randn(4, 37, generator=generator)
    entropies = per_row[2:] if has_entropy else (None, None)
    found = fused.fused_gradients(hidden, weight, targets, 9 + per_row[0], per_row[1], *entropies, 0, real, 0.7)
    assert found.shape == (37, 100) and found.isfinite().all()
    assert found[:, real:].abs().sum() == 0 and (real == 0 or found[:, :real].abs().min() > 0)


@pytest.mark.parametrize("chunk_bytes", [None, 4 * 130 * 4])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_linear_values_and_all_gradients(scale: float, chunk_bytes: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(9, 16, generator=generator), scale * torch.randn(130, 16, generator=generator)
    targets = torch.randint(127, (9,), generator=generator)
    targets[4] = -100
    factors = torch.randn(2, 9, generator=generator)
    live = [x.clone().requires_grad_() for x in (hidden, weight)]
    stats = linear_logprob(*live, targets, temperature=0.8, vocab_size=127, chunk_bytes=chunk_bytes)
    (stats.logprob_T * factors[0] + stats.entropy_T * factors[1]).sum().backward()
    doubles = [x.double().requires_grad_() for x in (hidden, weight)]
    logits = (doubles[0] @ doubles[1].T)[:, :127]
    expected = exact(logits, targets, 0.8)
    (expected[0] * factors[0] + expected[1] * factors[1]).sum().backward()
    largest = float(logits.detach().abs().max()) / 0.8
    for found, value in zip(stats, expected, strict=True):
        assert_close(found, value, largest)
    for found, value in zip(live, doubles, strict=True):
        assert_close(found.grad, value.grad, largest)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_over_gloo_give_what_the_whole_gives(ranks: int) -> None:
    run_on_gloo(compare_interpreted_shards, ranks)
