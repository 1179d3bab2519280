"""Causal attention over packed sequences, for the local layer spec (megatron's own refuses packed input)."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig


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

    def forward(
        self,
        query_TND: torch.Tensor,
        key_TGD: torch.Tensor,
        value_TGD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        packed_seq_params: PackedSeqParams,
        **_unused: Any,
    ) -> torch.Tensor:
        """[T, heads, dim], [T, groups, dim] twice -> [T, heads * dim]; T packs sequences at `cu_seqlens_q`."""
        boundaries = packed_seq_params.cu_seqlens_q.tolist()
        outputs = [
            _causal_attention(query_TND[start:end], key_TGD[start:end], value_TGD[start:end], self.scale)
            for start, end in pairwise(boundaries)
        ]
        return torch.cat(outputs).flatten(1)


def _causal_attention(
    query_SND: torch.Tensor, key_SGD: torch.Tensor, value_SGD: torch.Tensor, scale: float | None
) -> torch.Tensor:
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (query_SND, key_SGD, value_SGD))
    output_1NSD = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    return output_1NSD[0].transpose(0, 1)
