"""How many rows and columns of logits are taken at a time, by memory and by the processors' tiles."""

from types import SimpleNamespace

import pytest
import torch
from egrc_kernels.linear_logprob import in_forward, sizes
from egrc_kernels.linear_logprob.sizes import affordable_bytes, slice_size
from hypothesis import given
from hypothesis import strategies as st

VOCAB = 152064
GPU = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0))


@given(st.integers(1, 200_000), st.integers(0, 100_000), st.integers(1, 9000), st.sampled_from([1, 108, 132, 148]))
def test_a_slice_is_never_larger_than_asked_nor_empty(total: int, most: int, across: int, units: int) -> None:
    size = slice_size(total, most, across, units)
    assert 1 <= size <= max(1, min(total, most))
    if units > 1 and sizes.TILE_ROWS <= most < total:
        assert size % sizes.TILE_ROWS == 0


def test_on_a_cpu_the_slices_are_as_large_as_asked() -> None:
    assert slice_size(1000, 300, 64, units=1) == 300


@pytest.mark.parametrize(("hidden", "count"), [(1536, 9), (3584, 9)])
def test_columns_of_the_usual_vocabulary_are_whole_waves_of_132_processors(hidden: int, count: int) -> None:
    size = slice_size(VOCAB, sizes.MOST_BYTES // (4 * 32768), hidden, 132)
    assert size == VOCAB // count
    assert (size // 128) * -(-hidden // 256) % 132 == 0


def test_rows_for_gradients_in_forward_are_few_and_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_forward, "num_units", lambda _tensor: 132)
    hidden, weight = (torch.empty(n, 3584, dtype=torch.bfloat16, device="meta") for n in (32768, VOCAB))
    # all gradients fit, so each product behind them is one
    assert in_forward.rows_kept_and_at_a_time(hidden, weight, sizes.MOST_BYTES) == (32768, 4096)
    # three times 11008 would take 29 waves of tiles, four times 8192 take 28
    kept, rows = in_forward.rows_kept_and_at_a_time(hidden, weight, 2**30)
    assert (kept, rows) == (8192, 1664)
    assert 2 * kept * VOCAB <= sizes.KEPT * 2**30 and 4 * rows * VOCAB <= 2**30


def gpu_with(monkeypatch: pytest.MonkeyPatch, free: int, cached: int = 0) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: cached + 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 2**30)


@pytest.mark.parametrize(
    ("free", "cached", "expected"),
    [(80 * 2**30, 0, 5 * 2**29), (17 * 2**30, 2**31, 5 * 2**29), (17 * 2**30, 0, 5 * 2**28), (0, 0, 5 * 2**25)],
)
def test_bytes_follow_what_is_free_and_what_the_allocator_keeps(
    monkeypatch: pytest.MonkeyPatch, free: int, cached: int, expected: int
) -> None:
    gpu_with(monkeypatch, free, cached)
    assert affordable_bytes(GPU, sizes.KEPT) == expected


def test_the_deterministic_mode_takes_a_fixed_size(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_with(monkeypatch, 80 * 2**30)
    torch.use_deterministic_algorithms(True)
    try:
        assert affordable_bytes(GPU, sizes.KEPT) == sizes.FIXED_BYTES
    finally:
        torch.use_deterministic_algorithms(False)
    assert affordable_bytes(torch.zeros(1), sizes.KEPT) == sizes.CPU_BYTES
