"""Bytes that a rank keeps of its micro-batches from forward to backward, under each way of recomputing.

After Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198), section
4, for the layers that the policy builds: grouped queries, flash attention, a gated feed-forward layer, no dropout. What
one H200 took for R1-Distill-Qwen-1.5B without recomputation (benchmarks/results/h200/second.jsonl) is met to 2 %
(`tests/plan/test_memory.py`).
"""

from typing import Literal

from egrc_mega.convert.family import Architecture
from egrc_mega.convert.parallel import ParallelLayout, stage_layers
from egrc_mega.sections.policy import MegatronSection

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")


def recompute_of(section: MegatronSection) -> Recompute:
    """The way that the section chooses."""
    return section.recompute_granularity or "none"


def layer_bytes(architecture: Architecture, section: MegatronSection, recompute: Recompute = "none") -> float:
    """Bytes that one layer keeps of one token of a rank's micro-batch.

    Between the tensor-parallel regions lie four tensors of the hidden size: what enters both norms and what leaves
    them. Inside lie the joined queries, keys and values with their rotated copies, the output of attention with the
    logarithm of its sum for each head, and of the feed-forward layer its two halves and their product. The logarithm is
    all that selective recomputation saves where attention is flash attention; full keeps what enters the layer.
    """
    width = 2 if section.bf16 else 4
    tensor = section.tensor_model_parallel_size
    spread = tensor if section.sequence_parallel else 1
    hidden = architecture.hidden_size / spread
    if recompute == "full":
        return width * hidden
    query = architecture.num_heads * architecture.head_dim
    key_value = max(architecture.num_query_groups, tensor) * architecture.head_dim
    attention = (query + 2 * key_value) + (query + key_value) + query
    logarithms = 4 * architecture.num_heads if recompute == "none" else 0
    statistics = 2 * 4 / spread
    return (
        width * (4 * hidden + attention / tensor + _feed_forward(architecture, section))
        + logarithms / tensor
        + statistics
    )


def _feed_forward(architecture: Architecture, section: MegatronSection) -> float:
    """Elements of one token inside the feed-forward layer; of a mixture those of a rank with its share of tokens."""
    tensor = section.tensor_model_parallel_size
    if not architecture.num_experts:
        return 3 * architecture.ffn_size / tensor
    chosen = int(architecture.transformer_fields["moe_router_topk"])
    # a token is copied for each expert that it goes to, there and back
    return chosen * (3 * architecture.expert_ffn_size / tensor + 2 * architecture.hidden_size / tensor)


def working_bytes(architecture: Architecture, section: MegatronSection, num_tokens: int) -> float:
    """Beside what is kept: the gradients inside one layer while backward is in it, and with full recomputation the
    layers of a unit made anew."""
    width = 2 if section.bf16 else 4
    tensor = section.tensor_model_parallel_size
    gradients = width * (3 * architecture.ffn_size / tensor + 2 * architecture.hidden_size)
    if architecture.num_experts:
        gradients = width * (_feed_forward(architecture, section) + 2 * architecture.hidden_size)
    anew = 0.0
    if section.recompute_granularity == "full":
        unit = section.recompute_num_layers or 1
        layers = unit if section.recompute_method == "uniform" else 1
        anew = layers * layer_bytes(architecture, section)
    return num_tokens * (gradients + anew)


def in_flight(section: MegatronSection, stage: int, num_micro_batches: int) -> float:
    """Micro-batches, counted in whole stages, that a pipeline stage keeps at once in the schedule 1F1B."""
    pipeline = section.pipeline_model_parallel_size
    pieces = section.virtual_pipeline_model_parallel_size or 1
    if pieces == 1:
        return float(min(pipeline - stage, num_micro_batches))
    # megatron's interleaved schedule: so many pieces are forward before the first goes backward
    warm_up = 2 * (pipeline - stage - 1) + (pieces - 1) * pipeline + 1
    return min(warm_up, pieces * num_micro_batches) / pieces


def kept_bytes(
    architecture: Architecture,
    section: MegatronSection,
    stage: int,
    num_tokens: int,
    num_micro_batches: int,
    recompute: Recompute | None = None,
) -> float:
    """Bytes that a rank of a pipeline stage keeps.

    Args:
        num_tokens: of a micro-batch on this rank, which with context parallelism has its share only.
        recompute: instead of the section's own way; full is then one layer at a time.
    """
    layers = sum(map(len, stage_layers(architecture.num_layers, ParallelLayout.of(section))[stage]))
    mode = recompute_of(section) if recompute is None else recompute
    whole, entry = layer_bytes(architecture, section, mode), layer_bytes(architecture, section, "full")
    if mode != "full":
        each = layers * whole
    elif recompute is None and section.recompute_method == "block":
        anew = min(layers, section.recompute_num_layers or layers)
        each = anew * entry + (layers - anew) * layer_bytes(architecture, section)
    else:
        unit = section.recompute_num_layers or 1 if recompute is None else 1
        each = -(-layers // unit) * entry
    return num_tokens * each * in_flight(section, stage, num_micro_batches)
