"""Packed attention: torch's flash attention for ragged batches gets what its documentation asks for.

The CPU has no flash attention: a double in float64 stands for torch's, made from its documentation (ragged batches by
cumulative lengths, a window of (-1, 0) is causal, aligned at the end, key heads shared by groups of query heads).
Not covered: its speed and its rounding.
"""

import math
from collections.abc import Callable

import pytest
import torch

from egrc_mega.policy import distributed  # noqa: F401  (first: it points megatron at the CPU)

# isort: split
from egrc_mega.policy import attention
from egrc_mega.policy.attention import attention_by_sequence, flash_attention
from egrc_mega.policy.context import TokenSplit
from egrc_mega.policy.packed import pack

BOUNDARIES = [0, 8, 12, 40, 44]
CPU = torch.device("cpu")


def varlen_double(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (window_size, enable_gqa) == ((-1, 0), query.shape[1] != key.shape[1])
    assert max_q == int(cu_q.diff().max()) and max_k == int(cu_k.diff().max())
    assert cu_q[-1] == query.shape[0] and cu_k[-1] == key.shape[0]
    outputs = []
    for i in range(len(cu_q) - 1):
        q, k, v = query[cu_q[i] : cu_q[i + 1]], key[cu_k[i] : cu_k[i + 1]], value[cu_k[i] : cu_k[i + 1]]
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * (scale or 1 / math.sqrt(q.shape[-1]))
        rows, columns = torch.arange(len(q))[:, None], torch.arange(len(k))[None]
        scores = scores.masked_fill(columns > rows + len(k) - len(q), -math.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
    return torch.cat(outputs)


def varlen_of_torch_2_11(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size):
    """It shares keys between heads without being told, and refuses to be told."""
    shares = query.shape[1] != key.shape[1]
    return varlen_double(
        query, key, value, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size, enable_gqa=shares
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rank", [None, 0, 1])
@pytest.mark.parametrize("form", [varlen_double, varlen_of_torch_2_11])
def test_flash_and_sequence_by_sequence_agree(
    monkeypatch: pytest.MonkeyPatch, groups: int, rank: int | None, form: Callable[..., torch.Tensor]
) -> None:
    monkeypatch.setattr(attention, "varlen_attn", form)
    split = TokenSplit() if rank is None else TokenSplit(context_size=2, context_rank=rank)
    parts = pack(BOUNDARIES, CPU, split).parts
    generator = torch.Generator().manual_seed(3)
    num_queries = sum(end - begin for _start, begin, end in parts.spans)
    shapes = [(num_queries, 4, 8), (44, groups, 8), (44, groups, 8)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    upstream = torch.randn(num_queries, 4, 8, generator=generator, dtype=torch.float64)
    results = []
    for attend in (flash_attention, attention_by_sequence):
        output = attend(*tensors, parts, None)
        results.append((output, *torch.autograd.grad(output, tensors, upstream)))
    for flash, plain in zip(*results, strict=True):
        torch.testing.assert_close(flash, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("was_enabled", [True, False])
def test_sequence_by_sequence_cudnn_makes_no_plan_for_every_length(
    monkeypatch: pytest.MonkeyPatch, was_enabled: bool
) -> None:
    backends, seen = torch.backends.cuda, []
    monkeypatch.setattr(attention, "_causal_attention", lambda query, *_rest: seen.append(backends.cudnn_sdp_enabled()))
    before = backends.cudnn_sdp_enabled()
    backends.enable_cudnn_sdp(was_enabled)
    with pytest.raises(TypeError):  # the double returns nothing that could be joined
        attention_by_sequence(*[torch.zeros(44, 1, 1)] * 3, pack(BOUNDARIES, CPU).parts, None)
    assert (seen, backends.cudnn_sdp_enabled()) == ([False] * 4, was_enabled)
    backends.enable_cudnn_sdp(before)


def test_flash_is_for_16_bit_queries_on_a_gpu_only() -> None:
    assert not attention._takes_flash(torch.zeros(1, 1, 1, dtype=torch.bfloat16))
    assert attention.HAVE_VARLEN
