"""Log-prob and entropies from hidden states, against float64 autograd, whole and in shards of the vocabulary."""

import subprocess
import sys

import pytest
import torch
from egrc_kernels.linear_logprob import linear_logprob
from egrc_kernels.logprob import logprob_entropy

from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.kernel_worker import compare_shards


def make(rows: int, hidden: int, columns: int, scale: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden_TH = torch.randn(rows, hidden, generator=generator)
    weight_VH = torch.randn(columns, hidden, generator=generator) * scale
    return hidden_TH, weight_VH, torch.randint(columns, (rows,), generator=generator)


def exact(hidden_TH: torch.Tensor, weight_VH: torch.Tensor, targets_T: torch.Tensor, temperature: float):
    logits = hidden_TH.double() @ weight_VH.double().T
    logp, logp_one = (torch.log_softmax(logits / t, dim=-1) for t in (temperature, 1.0))
    entropies = (-(p.exp() * p).sum(-1) for p in (logp, logp_one))
    return logp.gather(1, targets_T[:, None])[:, 0], *entropies


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("chunk_rows", [1, 4, 100, None])
@pytest.mark.parametrize(("rows", "columns", "scale"), [(1, 1, 1.0), (7, 41, 1.0), (33, 130, 1.0), (9, 50, 30.0)])
def test_values_and_gradients_match_float64(
    rows: int, columns: int, scale: float, chunk_rows: int | None, temperature: float
) -> None:
    hidden, weight, targets = make(rows, 16, columns, scale)
    factor = torch.randn(rows, generator=torch.Generator().manual_seed(1))
    inputs = [x.clone().requires_grad_() for x in (hidden, weight)]
    chunk_bytes = chunk_rows and 4 * columns * chunk_rows
    stats = linear_logprob(*inputs, targets, temperature=temperature, chunk_bytes=chunk_bytes)
    (stats.logprob_T * factor).sum().backward()
    doubles = [x.double().requires_grad_() for x in (hidden, weight)]
    expected = exact(*doubles, targets, temperature)
    (expected[0] * factor).sum().backward()
    for found, value in zip(stats, expected, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=2e-5 * scale)
    # backward computes the logits again by other products: a probability inherits the rounding of the largest logit
    bound = 1e-6 + torch.finfo(torch.float32).eps / 2 * float((hidden @ weight.T).abs().max()) / temperature
    for found, value in zip(inputs, doubles, strict=True):
        assert float((found.grad - value.grad).norm()) <= bound * float(value.grad.norm())


def test_padding_rows_of_the_weight_take_no_part_whatever_they_hold() -> None:
    hidden, weight, targets = make(5, 16, 8)
    targets = targets.clamp(max=5)
    weight[6:] = 1e4
    padded, real = weight.clone().requires_grad_(), weight[:6].clone().requires_grad_()
    first = linear_logprob(hidden, padded, targets, vocab_size=6, temperature=0.8)
    second = linear_logprob(hidden, real, targets, temperature=0.8)
    torch.testing.assert_close(first, second)
    for stats in (first, second):
        stats.logprob_T.sum().backward()
    assert torch.equal(padded.grad[6:], torch.zeros(2, 16))
    torch.testing.assert_close(padded.grad[:6], real.grad)


def test_it_agrees_with_the_op_on_logits() -> None:
    hidden, weight, targets = make(12, 16, 77)
    stats = linear_logprob(hidden, weight, targets, temperature=0.7, chunk_bytes=4 * 77 * 5)
    logprob, entropy, _one = logprob_entropy(hidden @ weight.T, targets, temperature=0.7)
    torch.testing.assert_close(stats.logprob_T, logprob)
    torch.testing.assert_close(stats.entropy_T, entropy)


def test_bfloat16_sums_in_float32_and_gives_bfloat16_gradients() -> None:
    hidden, weight, targets = (x.bfloat16() if x.is_floating_point() else x for x in make(40, 16, 60))
    inputs = [x.clone().requires_grad_() for x in (hidden, weight)]
    stats = linear_logprob(*inputs, targets, chunk_bytes=4 * 60 * 3)
    assert {x.dtype for x in stats} == {torch.float32}
    torch.testing.assert_close(stats.logprob_T.double(), exact(hidden, weight, targets, 1.0)[0], rtol=0.02, atol=0.05)
    stats.logprob_T.sum().backward()
    assert {x.grad.dtype for x in inputs} == {torch.bfloat16}
    whole = [x.clone().requires_grad_() for x in (hidden, weight)]
    linear_logprob(*whole, targets, chunk_bytes=4 * 60 * 100).logprob_T.sum().backward()
    # the chunks' sums are rounded once, at the end
    torch.testing.assert_close(inputs[1].grad, whole[1].grad, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_of_the_vocabulary_give_what_the_whole_gives(ranks: int) -> None:
    """Also a target that is its shard's largest logit, and a shard that is all padding."""
    run_on_gloo(compare_shards, ranks)


PEAK = """
import resource, torch
from egrc_kernels.linear_logprob import linear_logprob
torch.set_num_threads(1)
tokens, vocab, hidden = 8192, 32768, 256
generator = torch.Generator().manual_seed(0)
hidden_TH = torch.randn(tokens, hidden, generator=generator).requires_grad_()
weight_VH = (0.05 * torch.randn(vocab, hidden, generator=generator)).requires_grad_()
targets_T = torch.randint(vocab, (tokens,), generator=generator)
small = linear_logprob(hidden_TH[:64], weight_VH, targets_T[:64])  # loads what is loaded once
small.logprob_T.sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
linear_logprob(hidden_TH, weight_VH, targets_T, temperature=0.8).logprob_T.sum().backward()
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(peak - weight_VH.grad.nbytes, 4 * tokens * vocab)
"""


def test_forward_and_backward_never_hold_an_eighth_of_the_logits() -> None:
    result = subprocess.run([sys.executable, "-P", "-c", PEAK], capture_output=True, text=True, check=True)
    peak, logits = map(int, result.stdout.split())
    assert peak < logits / 8, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_TH": torch.zeros(3, 5)}, r"weight_VH \[V, H\]"),
        ({"targets_T": torch.zeros(3)}, "int64"),
        ({"targets_T": torch.zeros(2, dtype=torch.int64)}, r"\[T\]"),
        ({"weight_VH": torch.zeros(8, 4).bfloat16()}, "share a dtype"),
        ({"temperature": 0.0}, "positive"),
    ],
)
def test_misuse_is_refused(change: dict, message: str) -> None:
    arguments = {"hidden_TH": torch.zeros(3, 4), "weight_VH": torch.zeros(8, 4), "targets_T": torch.zeros(3).long()}
    with pytest.raises(ValueError, match=message):
        linear_logprob(**(arguments | change))
