"""Weights into and out of the live, sharded model, by the family's table."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

from egrc_mega.convert import layout
from egrc_mega.convert.family import Architecture, Entry, Kind
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.convert.shapes import padded_shape
from egrc_mega.convert.source import Source
from egrc_mega.observe.pulse import PULSE
from egrc_mega.policy.distributed import device, gather_texts


def import_hf(model: Sequence[GPTModel], source: Source) -> None:
    """Fill this rank's parameters from a checkpoint that `convert.source.check_source` has passed, no intermediate."""
    parameters, architecture = local_parameters(model), source.architecture
    for entry in architecture.entries():
        PULSE.beat()
        target = parameters.pop(entry.name, None)
        if target is None:
            continue  # another rank's
        full = layout.to_megatron(entry, source.tensors(entry), architecture)
        rank, size = tensor_place(entry)
        target.data.copy_(layout.shard(entry, full, rank, size, architecture))
    assert not parameters, f"the family's table does not produce {sorted(parameters)}"


def local_parameters(model: Sequence[GPTModel]) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters by the names of the table: layers and experts count over all ranks.

    With tied embeddings a pipeline's last stage holds a copy of the embedding as its output layer: one name for both.

    Args:
        model: the rank's pieces of the model, see `policy.model.build_model`.
    """
    return {name: parameter for piece in model for name, parameter in _parameters_of_piece(piece)}


def _parameters_of_piece(model: GPTModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    layers = {str(i): layer for i, layer in enumerate(model.decoder.layers)}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if parts[:2] == ["decoder", "layers"]:
            layer = layers[parts[2]]
            # the names of a layer's parts differ between layer specs; the layer knows what checkpoints call them
            renamed = ".".join(parts[3:])
            for own, stored in layer.submodules_config.sharded_state_dict_keys_map.items():
                renamed = stored + renamed.removeprefix(own) if renamed.startswith(own) else renamed
            name = f"decoder.layers.{layer.layer_number - 1}.{_global_expert(renamed, layer)}"
        elif name == "output_layer.weight" and model.share_embeddings_and_output_weights:
            name = "embedding.word_embeddings.weight"
        yield name, parameter


def _global_expert(name: str, layer: Any) -> str:
    prefix, separator, rest = name.partition("mlp.experts.local_experts.")
    if not separator:
        return name
    local, _, module = rest.partition(".")
    first = parallel_state.get_expert_model_parallel_rank() * layer.mlp.num_local_experts
    return f"{prefix}mlp.experts.experts.{first + int(local)}.{module}"


def export_hf(model: Sequence[GPTModel], architecture: Architecture) -> HfTensors:
    """Yield every Hugging Face tensor of the live model, in table order. Collective: every rank must exhaust it.

    The tensors are whole on every rank of the first data-parallel replica, in the training dtype.
    """
    weights = {name: parameter.detach() for name, parameter in local_parameters(model).items()}
    yield from gather_hf(weights, architecture)


def gather_hf(tensors: dict[str, torch.Tensor], architecture: Architecture) -> HfTensors:
    """Join tensors shaped like this rank's parameters (weights, gradients) into Hugging Face tensors. Collective."""
    experts = parallel_state.get_expert_model_parallel_group()
    stages = parallel_state.get_pipeline_model_parallel_group()
    expert_owners = _owners([name for name in tensors if ".experts." in name], experts)
    # a stage has whatever its expert-parallel ranks have
    stage_owners = _owners(list(dict.fromkeys([*tensors, *expert_owners])), stages)
    dtype = next(iter(tensors.values())).dtype
    for entry in architecture.entries():
        PULSE.beat()
        local = tensors.get(entry.name)
        full = None if local is None else layout.unshard(entry, _tensor_parallel_shards(entry, local))
        shape = padded_shape(entry, architecture, tensor_place(entry)[1])
        if entry.is_expert and entry.name in expert_owners:
            full = _broadcast(full, expert_owners[entry.name], experts, shape, dtype)
        full = _broadcast(full, stage_owners[entry.name], stages, shape, dtype)
        yield from zip(entry.hf, layout.to_hf(entry, full, architecture), strict=True)


def _owners(names: list[str], group: dist.ProcessGroup) -> dict[str, int]:
    """Name -> the first rank of the group that has it. Tied embeddings live on the first and the last stage."""
    if group.size() == 1:
        return dict.fromkeys(names, 0)
    held = [json.loads(text) for text in gather_texts(json.dumps(names), group)]
    return {name: rank for rank in reversed(range(group.size())) for name in held[rank]}


def _broadcast(
    tensor: torch.Tensor | None, owner: int, group: dist.ProcessGroup, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """The owner's tensor on every rank of the group; a copy, so that the model may change meanwhile."""
    buffer = torch.empty(shape, dtype=dtype, device=device()) if tensor is None else tensor.clone()
    if group.size() > 1:
        dist.broadcast(buffer, src=dist.get_global_rank(group, owner), group=group)
    return buffer


def _tensor_parallel_shards(entry: Entry, local: torch.Tensor) -> list[torch.Tensor]:
    _rank, size = tensor_place(entry)
    if size == 1 or entry.kind is Kind.REPLICATED:
        return [local]
    shards = [torch.empty_like(local) for _ in range(size)]
    dist.all_gather(shards, local.contiguous(), group=_tensor_group(entry))
    return shards


def _tensor_group(entry: Entry) -> dist.ProcessGroup:
    """Experts may be split over fewer ranks than the rest of a layer."""
    if entry.is_expert:
        return parallel_state.get_expert_tensor_parallel_group()
    return parallel_state.get_tensor_model_parallel_group()


def tensor_place(entry: Entry) -> tuple[int, int]:
    """(rank, size) in the group that shares the parameter."""
    group = _tensor_group(entry)
    return group.rank(), group.size()
