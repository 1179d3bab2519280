"""The log-prob and entropy op against float64 autograd. Tensor parallelism is covered by the policy's layout tests."""

from itertools import pairwise

import pytest
import torch
from egrc_kernels.logprob import logprob_entropy, rows
from egrc_kernels.logprob.shards import merge, row_stats


def reference(logits: torch.Tensor, targets: torch.Tensor, temperature: float, vocab_size: int):
    logp = torch.log_softmax(logits.double()[:, :vocab_size] / temperature, dim=-1)
    return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp.nan_to_num(neginf=0)).sum(-1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize(("rows", "columns", "vocab_size"), [(1, 1, 1), (7, 41, 41), (33, 130, 127)])
@pytest.mark.parametrize("scale", [1.0, 90.0])
def test_values_and_gradient_match_float64(
    rows: int, columns: int, vocab_size: int, temperature: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(rows)
    logits = (torch.randn(rows, columns, generator=generator) * scale).requires_grad_()
    targets = torch.randint(vocab_size, (rows,), generator=generator)
    weight = torch.randn(rows, generator=generator)
    logprob, entropy, _one = logprob_entropy(logits, targets, temperature=temperature, vocab_size=vocab_size)
    (logprob * weight).sum().backward()
    exact = logits.detach().double().requires_grad_()
    exact_logprob, exact_entropy = reference(exact, targets, temperature, vocab_size)
    (exact_logprob * weight).sum().backward()
    torch.testing.assert_close(logprob.double(), exact_logprob, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(entropy.double(), exact_entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


def test_padding_columns_take_no_part_whatever_they_hold() -> None:
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 4])
    first = logprob_entropy(logits, targets, vocab_size=6)
    logits[:, 6:] = 1e4
    padded = logits.requires_grad_()
    second = logprob_entropy(padded, targets, vocab_size=6)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    torch.testing.assert_close(second, logprob_entropy(logits[:, :6].contiguous(), targets))
    second[0].sum().backward()
    assert torch.equal(padded.grad[:, 6:], torch.zeros(5, 2))


def test_bfloat16_logits_are_reduced_in_float32_and_get_a_bfloat16_gradient() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    targets = torch.tensor([3, 0, 49, 7])
    logprob, entropy, _one = logprob_entropy(logits, targets)
    assert logprob.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprob, reference(logits, targets, 1.0, 50)[0].float())
    logprob.sum().backward()
    assert logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("vocab_size", [9, 7])
def test_the_entropy_carries_its_gradient(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = (3 * torch.randn(4, 9, generator=generator)).requires_grad_()
    targets = torch.tensor([0, 1, 2, 3])
    _logprob, entropy, _one = logprob_entropy(logits, targets, temperature=0.8, vocab_size=vocab_size)
    entropy.sum().backward()
    exact = logits.detach().double().requires_grad_()
    reference(exact, targets, 0.8, vocab_size)[1].sum().backward()
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)


def test_a_row_without_target_has_neither_log_prob_nor_gradient() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(4)).requires_grad_()
    stats = logprob_entropy(logits, torch.tensor([0, -100, 8]))
    assert stats.logprob_T[1] == 0 and stats.entropy_T[1] > 0
    stats.logprob_T.sum().backward()
    assert logits.grad[1].abs().max() == 0 and logits.grad[0].abs().max() > 0


@pytest.mark.parametrize(
    ("logits", "targets", "temperature", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64), 1.0, "must be"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 1.0, "must be"),
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64), 1.0, "float64"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int32), 1.0, "int64"),
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 0.0, "temperature"),
    ],
)
def test_bad_input_is_refused_by_name(logits, targets, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        logprob_entropy(logits, targets, temperature=temperature)


def test_a_gradient_apart_leaves_the_logits_and_has_the_bits_of_the_one_in_place_in_any_dtype() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, targets = 5 * torch.randn(4, 70, generator=generator), torch.tensor([0, 69, -100, 7])
    per_row = torch.randn(4, 4, generator=generator).unbind()
    inside = logits.clone()
    rows.row_gradients_(inside, targets, *per_row, 0, 66, 0.7)
    kept = logits.clone()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        apart = torch.full_like(logits, torch.nan, dtype=dtype)
        rows.row_gradients(logits, apart, targets, *per_row, 0, 66, 0.7)
        assert torch.equal(apart, inside.to(dtype))
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("cuts", [(0, 30, 60), (0, 20, 40, 60), (0, 59, 60)])
def test_shards_of_the_vocabulary_join_to_the_whole_and_each_has_its_part_of_the_gradient(
    temperature: float, cuts: tuple[int, ...]
) -> None:
    """As tensor-parallel ranks hold them; the last columns are padding, a whole shard of it in one case."""
    generator = torch.Generator().manual_seed(5)
    logits, targets = 6 * torch.randn(7, 60, generator=generator), torch.tensor([0, 19, 20, 29, 30, 54, -100])
    num_real = 55
    slopes = torch.randn(7, generator=generator).where(targets >= 0, 0.0)
    whole = row_stats(rows.row_partials(logits, targets, 0, num_real, temperature), targets, temperature, None)
    places = [(start, stop, min(stop, max(start, num_real)) - start) for start, stop in pairwise(cuts)]
    parts = [rows.row_partials(logits[:, a:b].clone(), targets, a, real, temperature) for a, b, real in places]
    joined = row_stats(merge(parts, temperature), targets, temperature, None)
    for name in ("logprob_T", "entropy_T", "entropy_at_one_T", "log_sum_T"):
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name), rtol=1e-5, atol=2e-5, msg=name)
    expected = logits.clone()
    rows.row_gradients_(expected, targets, whole.log_sum_T, slopes, None, None, 0, num_real, temperature)
    for a, b, real in places:
        found = logits[:, a:b].clone()
        rows.row_gradients_(found, targets, whole.log_sum_T, slopes, None, None, a, real, temperature)
        torch.testing.assert_close(found, expected[:, a:b], rtol=1e-6, atol=1e-7)


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


def test_tokens_forbidden_by_minus_infinity_count_as_columns_that_are_not_there() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, targets = 5 * torch.randn(4, 30, generator=generator), torch.tensor([0, 4, -100, 7])
    forbidden = torch.arange(30) % 3 == 2
    kept = torch.arange(30)[~forbidden]
    masked = logits.masked_fill(forbidden, -torch.inf).requires_grad_()
    fewer = logits[:, kept].clone().requires_grad_()
    found = logprob_entropy(masked, targets, temperature=0.7)
    expected = logprob_entropy(fewer, torch.tensor([0, 3, -100, 5]), temperature=0.7)
    torch.testing.assert_close(tuple(found), tuple(expected))
    for stats in (found, expected):
        (stats.logprob_T + 0.3 * stats.entropy_T).sum().backward()
    torch.testing.assert_close(masked.grad[:, kept], fewer.grad)
    assert masked.grad[:, forbidden].abs().max() == 0
