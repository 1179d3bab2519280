"""Causal attention over packed sequences, for the local layer spec (megatron's own refuses packed input)."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.attention.bias import causal_lower_right

from egrc_mega.policy.packed import PackedSequences, Parts

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    HAVE_VARLEN = False
else:
    # earlier forms of it have no window, and would not be causal
    HAVE_VARLEN = "window_size" in inspect.signature(varlen_attn).parameters


class PackedAttention(torch.nn.Module):
    """Core attention of a layer: every packed sequence attends to itself only, causally.

    Takes the place of `megatron.core.transformer.dot_product_attention.DotProductAttention` and has its constructor.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        **_unused: Any,
    ) -> None:
        super().__init__()
        assert config.attention_dropout == 0.0, "packed attention has no dropout"
        assert attn_mask_type == AttnMaskType.causal, "packed attention is causal"
        self.scale = config.softmax_scale
        self.group = parallel_state.get_context_parallel_group(check_initialized=False)

    def forward(
        self,
        query_TND: torch.Tensor,
        key_TGD: torch.Tensor,
        value_TGD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        packed_seq_params: PackedSequences,
        **_unused: Any,
    ) -> torch.Tensor:
        """[T, heads, dim], [T, groups, dim] twice -> [T, heads * dim]; the whole packs sequences at `cu_seqlens_q`.

        With context parallelism T is this rank's share: keys and values of the whole are gathered.
        """
        parts = packed_seq_params.parts
        assert parts is not None, "packed attention needs the parts that `packed.pack` makes"
        if parts.places_W is not None:
            key_TGD, value_TGD = (
                gather_from_sequence_parallel_region(x.contiguous(), group=self.group)[parts.places_W]
                for x in (key_TGD, value_TGD)
            )
        attend = flash_attention if _takes_flash(query_TND) else attention_by_sequence
        return attend(query_TND, key_TGD, value_TGD, parts, self.scale).flatten(1)


def _takes_flash(query_TND: torch.Tensor) -> bool:
    return HAVE_VARLEN and query_TND.is_cuda and query_TND.dtype in (torch.bfloat16, torch.float16)


def attention_by_sequence(
    query_TND: torch.Tensor, key_WGD: torch.Tensor, value_WGD: torch.Tensor, parts: Parts, scale: float | None
) -> torch.Tensor:
    """[T, heads, dim]: the parts' queries, one part after the other, each with torch's scaled dot product."""
    queries = query_TND.split([end - begin for _start, begin, end in parts.spans])
    with _without_plans_per_length():
        outputs = [
            _causal_attention(query, key_WGD[start:end], value_WGD[start:end], scale)
            for query, (start, _begin, end) in zip(queries, parts.spans, strict=True)
        ]
    return torch.cat(outputs)


@contextmanager
def _without_plans_per_length() -> Iterator[None]:
    """Without cuDNN's attention, which makes a plan for every length that it has not met: a batch has hundreds."""
    was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)


def _causal_attention(
    query_SND: torch.Tensor, key_PGD: torch.Tensor, value_PGD: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """The last S of P tokens attend to those before them and to themselves."""
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query_SND, key_PGD, value_PGD))
    is_whole = query_SND.shape[0] == key_PGD.shape[0]
    mask = None if is_whole else causal_lower_right(query_SND.shape[0], key_PGD.shape[0])
    output_1NSD = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_whole, scale=scale, enable_gqa=True
    )
    return output_1NSD[0].transpose(0, 1)


def flash_attention(
    query_TND: torch.Tensor, key_WGD: torch.Tensor, value_WGD: torch.Tensor, parts: Parts, scale: float | None
) -> torch.Tensor:
    """The same in one launch of torch's flash attention for ragged batches; no mask exists in memory.

    Its causal mask is aligned at the end of queries and keys, which is what parts of a sequence need.
    """
    if parts.key_places is not None:
        key_WGD, value_WGD = key_WGD[parts.key_places], value_WGD[parts.key_places]
    extra: Any = {"enable_gqa": query_TND.shape[1] != key_WGD.shape[1]} if _wants_to_be_told(varlen_attn) else {}
    output = varlen_attn(
        query_TND,
        key_WGD,
        value_WGD,
        parts.cu_queries,
        parts.cu_keys,
        parts.max_queries,
        parts.max_keys,
        scale=scale,
        window_size=(-1, 0),
        **extra,
    )
    assert isinstance(output, torch.Tensor)
    return output


@cache
def _wants_to_be_told(attend: Callable[..., Any]) -> bool:
    """Whether it asks if keys are shared between heads: torch 2.11's shares them unasked, later forms ask."""
    return "enable_gqa" in inspect.signature(attend).parameters
