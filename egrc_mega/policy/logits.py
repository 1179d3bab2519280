"""Logits of packed sequences from the live model, whole on every rank: for comparisons, not for training."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func

from egrc_mega.convert.family import Architecture
from egrc_mega.policy.distributed import device
from egrc_mega.policy.model import PolicyModel
from egrc_mega.policy.packed import pack


def packed_logits(
    model: Sequence[PolicyModel], architecture: Architecture, sequences: Sequence[Sequence[int]]
) -> torch.Tensor:
    """All sequences packed into one forward pass: float32 [tokens, vocabulary], padding rows cut. Collective.

    Every data-parallel rank computes the same.
    """
    config = model[0].config
    assert config.context_parallel_size == 1, "logits of shared sequences are not gathered"
    assert len(model) == 1, "logits are not computed with virtual pipeline stages"
    num_tokens = sum(map(len, sequences))
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    padding = -num_tokens % tensor if config.sequence_parallel else 0
    padded = [*map(list, sequences), [0] * padding] if padding else [*map(list, sequences)]
    ids = torch.tensor([[token for sequence in padded for token in sequence]], device=device())
    positions = torch.tensor([[i for sequence in padded for i in range(len(sequence))]], device=device())
    packed = pack([sum(map(len, padded[:i])) for i in range(len(padded) + 1)], device())
    outputs: list[torch.Tensor] = []

    def keep(hidden_TH: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weight_VH = model[-1].output_weight_VH
        outputs.append((hidden_TH.to(weight_VH.dtype) @ weight_VH.T).float())
        return torch.zeros(()), {}

    def forward(_data: object, stage: PolicyModel) -> object:
        return stage(ids, positions, None, packed_seq_params=packed), keep

    model[0].eval()
    with torch.no_grad():
        get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter(()),
            model=list(model),
            num_microbatches=1,
            seq_length=ids.shape[1],
            micro_batch_size=1,
            forward_only=True,
        )
    return _whole(outputs[0] if outputs else None, ids.shape[1], architecture)[:num_tokens]


def _whole(local: torch.Tensor | None, num_tokens: int, architecture: Architecture) -> torch.Tensor:
    """Join the vocabulary's shards on the last stage, then send the result down the pipeline."""
    tensor, stages = (
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_pipeline_model_parallel_group(),
    )
    whole = torch.empty(num_tokens, architecture.padded_vocab_size(tensor.size()), device=device())
    if local is not None:
        parts = [torch.empty_like(local) for _ in range(tensor.size())]
        dist.all_gather(parts, local.contiguous(), group=tensor)
        whole = torch.cat(parts, dim=1)
    dist.broadcast(whole, src=dist.get_global_rank(stages, stages.size() - 1), group=stages)
    return whole[:, : architecture.vocab_size]
