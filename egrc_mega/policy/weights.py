"""Weights into and out of the live, sharded model, by the family's table."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel

from egrc_mega.convert import layout
from egrc_mega.convert.family import Architecture, Kind, Rule
from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.errors import ModelError
from egrc_mega.policy.distributed import device


def import_hf(model: GPTModel, reader: HfReader, architecture: Architecture) -> None:
    """Fill this rank's parameters from a Hugging Face folder, without an intermediate.

    Raises:
        ModelError: a tensor is missing, left over or of another shape; all of them are listed.
    """
    parameters = local_parameters(model)
    used: set[str] = set()
    problems: list[str] = []
    for rule in architecture.expanded_rules():
        used.update(rule.hf)
        missing = [name for name in rule.hf if name not in reader.names()]
        problems += [f"{name} is missing" for name in missing]
        if missing or rule.megatron not in parameters:
            continue
        full = layout.to_megatron(rule, [reader.tensor(name) for name in rule.hf], architecture)
        part = layout.shard(rule, full, tensor_rank(), tensor_size(), architecture)
        target = parameters[rule.megatron]
        if part.shape != target.shape:
            problems.append(f"{rule.hf[0]} gives {tuple(part.shape)}, {rule.megatron} is {tuple(target.shape)}")
            continue
        target.data.copy_(part)
    # a tied checkpoint may still carry its head; it equals the embedding
    extra = reader.names() - used - {"lm_head.weight"}
    problems += [f"{name} is in no rule" for name in sorted(extra)]
    if problems:
        raise ModelError(f"{reader.folder}: {'; '.join(problems)}")


def local_parameters(model: GPTModel) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters by their global name: layer numbers count over the whole pipeline.

    With tied embeddings a pipeline's last stage holds a copy of the embedding as its output layer: one name for both.
    """
    offset = model.decoder.layers[0].layer_number - 1 if len(model.decoder.layers) else 0
    result = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if parts[:2] == ["decoder", "layers"]:
            parts[2] = str(int(parts[2]) + offset)
        elif name == "output_layer.weight" and model.share_embeddings_and_output_weights:
            parts = ["embedding", "word_embeddings", "weight"]
        result[".".join(parts)] = parameter
    return result


def export_hf(model: GPTModel, architecture: Architecture) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every Hugging Face tensor of the live model, in table order. Collective: every rank must exhaust it.

    The tensors are whole on every rank of the first data-parallel replica, in the training dtype.
    """
    weights = {name: parameter.detach() for name, parameter in local_parameters(model).items()}
    yield from gather_hf(weights, architecture)


def gather_hf(tensors: dict[str, torch.Tensor], architecture: Architecture) -> Iterator[tuple[str, torch.Tensor]]:
    """Join tensors shaped like this rank's parameters (weights, gradients) into Hugging Face tensors. Collective."""
    for rule in architecture.expanded_rules():
        full = _gather(rule, tensors.get(rule.megatron))
        yield from zip(rule.hf, layout.to_hf(rule, full, architecture), strict=True)


def _gather(rule: Rule, local: torch.Tensor | None) -> torch.Tensor:
    """The full parameter: joined over the tensor-parallel group, then sent down the pipeline from its owner."""
    full = None if local is None else layout.unshard(rule, _tensor_parallel_shards(rule, local))
    group = parallel_state.get_pipeline_model_parallel_group()
    if group.size() == 1:
        assert full is not None, f"no rank holds {rule.megatron}"
        return full.clone()
    # tied embeddings live on the first and the last stage: the first owner speaks
    shapes: list[tuple[torch.Size, torch.dtype] | None] = [None] * group.size()
    dist.all_gather_object(shapes, None if full is None else (full.shape, full.dtype), group=group)
    owner = next(stage for stage, shape in enumerate(shapes) if shape is not None)
    shape, dtype = shapes[owner]  # type: ignore[misc]
    buffer = torch.empty(shape, dtype=dtype, device=device()) if full is None else full.clone()
    dist.broadcast(buffer, src=dist.get_global_rank(group, owner), group=group)
    return buffer


def _tensor_parallel_shards(rule: Rule, local: torch.Tensor) -> list[torch.Tensor]:
    if tensor_size() == 1 or rule.kind is Kind.REPLICATED:
        return [local]
    shards = [torch.empty_like(local) for _ in range(tensor_size())]
    dist.all_gather(shards, local.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
    return shards


def tensor_rank() -> int:
    """This rank's place in its tensor-parallel group."""
    return int(parallel_state.get_tensor_model_parallel_rank())


def tensor_size() -> int:
    """Size of the tensor-parallel group."""
    return int(parallel_state.get_tensor_model_parallel_world_size())
