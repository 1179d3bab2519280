"""Log-prob among what a row was sampled from, against float64 autograd, whole and in shards of the vocabulary."""

from dataclasses import replace

import pytest
import torch
from egrc_kernels.linear_logprob import linear_logprob
from egrc_kernels.masked_logprob import SamplingMasks, masked_logprob, ops

from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.kernel_worker import compare_masked_shards, random_masks, take

ROWS, HIDDEN, COLUMNS = 23, 16, 41


def make(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, SamplingMasks]:
    generator = torch.Generator().manual_seed(0)
    hidden_TH = torch.randn(ROWS, HIDDEN, generator=generator)
    weight_VH = torch.randn(COLUMNS, HIDDEN, generator=generator) * scale
    return hidden_TH, weight_VH, random_masks(ROWS, COLUMNS)


def exact(hidden_TH: torch.Tensor, weight_VH: torch.Tensor, masks: SamplingMasks, temperature: float) -> torch.Tensor:
    """By the definition: a softmax over each row's own tokens, one row after the other."""
    logits_TV = hidden_TH.double() @ weight_VH.double().T / temperature
    found = []
    for row, (begin, end) in enumerate(zip(masks.boundaries_T1[:-1], masks.boundaries_T1[1:], strict=True)):
        tokens = masks.tokens_K[begin:end].tolist()
        if not tokens:
            found.append(logits_TV.new_zeros(()))
            continue
        found.append(torch.log_softmax(logits_TV[row, tokens], 0)[masks.targets_T[row] - begin])
    return torch.stack(found)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("pairs_at_once", [1, 5, 1000])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_values_and_gradients_match_float64(
    scale: float, pairs_at_once: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "PIECE_BYTES", 4 * HIDDEN * pairs_at_once)
    hidden, weight, masks = make(scale)
    factor = torch.randn(ROWS, generator=torch.Generator().manual_seed(1))
    inputs = [x.clone().requires_grad_() for x in (hidden, weight)]
    logprob = masked_logprob(*inputs, masks, temperature=temperature)
    (logprob * factor).sum().backward()
    doubles = [x.double().requires_grad_() for x in (hidden, weight)]
    expected = exact(*doubles, masks, temperature)
    (expected * factor).sum().backward()
    torch.testing.assert_close(logprob.double(), expected, rtol=1e-5, atol=2e-5 * scale)
    bound = 1e-6 + torch.finfo(torch.float32).eps * float((hidden @ weight.T).abs().max()) / temperature
    for found, value in zip(inputs, doubles, strict=True):
        assert float((found.grad - value.grad).norm()) <= bound * float(value.grad.norm())


def test_a_mask_of_the_whole_vocabulary_changes_nothing() -> None:
    hidden, weight, _masks = make()
    targets = torch.arange(ROWS) % COLUMNS
    whole = SamplingMasks(
        rows_K=torch.arange(ROWS).repeat_interleave(COLUMNS),
        tokens_K=torch.arange(COLUMNS).repeat(ROWS),
        boundaries_T1=torch.arange(ROWS + 1) * COLUMNS,
        targets_T=torch.arange(ROWS) * COLUMNS + targets,
    )
    plain = linear_logprob(hidden, weight, targets, temperature=0.7).logprob_T
    torch.testing.assert_close(masked_logprob(hidden, weight, whole, temperature=0.7), plain)


def test_a_token_that_stood_alone_is_certain_and_a_row_without_a_mask_is_left_out() -> None:
    inputs = [x.clone().requires_grad_() for x in make()[:2]]
    # row 0 has one token, row 1 none, row 2 two, of which the second was drawn
    masks = SamplingMasks(
        torch.tensor([0, 2, 2]), torch.tensor([7, 3, 9]), torch.tensor([0, 1, 1, 3]), torch.tensor([0, 0, 2])
    )
    logprob = masked_logprob(inputs[0][:3], inputs[1], masks)
    assert logprob[:2].tolist() == [0.0, 0.0] and logprob[2] < 0
    logprob.sum().backward()
    assert torch.equal(inputs[0].grad[:2], torch.zeros(2, HIDDEN)) and inputs[0].grad[2].any()
    assert {row for row in range(COLUMNS) if inputs[1].grad[row].any()} == {3, 9}


def test_a_row_has_the_same_bits_whatever_its_company() -> None:
    hidden, weight, masks = make()
    together = masked_logprob(hidden, weight, masks)
    for rows in ([4], [0, 5, 9], list(range(11, ROWS))):
        assert torch.equal(masked_logprob(hidden[rows], weight, take(masks, rows)), together[rows])


@pytest.mark.parametrize(("pairs", "sizes"), [(0, [0]), (7, [7]), (1000, [1000]), (1001, [500, 501])])
def test_no_piece_of_the_pairs_is_much_smaller_than_the_others(
    pairs: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows may be summed in another order than many."""
    monkeypatch.setattr(ops, "PIECE_BYTES", 4 * HIDDEN * 1000)
    pieces = list(ops._pieces(torch.zeros(1, HIDDEN), pairs))
    assert [piece.stop - piece.start for piece in pieces] == sizes
    assert [i for piece in pieces for i in range(pairs)[piece]] == list(range(pairs))


def test_bfloat16_sums_in_float32_and_gives_bfloat16_gradients() -> None:
    hidden, weight, masks = make()
    inputs = [x.bfloat16().requires_grad_() for x in (hidden, weight)]
    logprob = masked_logprob(*inputs, masks)
    assert logprob.dtype == torch.float32
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    expected = exact(*doubles, masks, 1.0)
    torch.testing.assert_close(logprob.double(), expected, rtol=1e-5, atol=2e-5)
    logprob.sum().backward()
    expected.sum().backward()
    for found, value in zip(inputs, doubles, strict=True):
        assert found.grad.dtype == torch.bfloat16
        torch.testing.assert_close(found.grad.double(), value.grad, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_of_the_vocabulary_give_what_the_whole_gives(ranks: int) -> None:
    """Also a shard that holds no token of any mask, for it is all padding."""
    run_on_gloo(compare_masked_shards, ranks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_TH": torch.zeros(ROWS, 5)}, r"weight_VH \[V, H\]"),
        ({"weight_VH": torch.zeros(COLUMNS, HIDDEN).bfloat16()}, "share a dtype"),
        ({"masks": replace(make()[2], boundaries_T1=torch.zeros(3).long())}, f"for {ROWS} rows"),
        ({"masks": replace(make()[2], targets_T=torch.zeros(3).long())}, f"for {ROWS} rows"),
        ({"temperature": 0.0}, "positive"),
    ],
)
def test_misuse_is_refused(change: dict, message: str) -> None:
    arguments = dict(zip(("hidden_TH", "weight_VH", "masks"), make(), strict=True))
    with pytest.raises(ValueError, match=message):
        masked_logprob(**(arguments | change))
