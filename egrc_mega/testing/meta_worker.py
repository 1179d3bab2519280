"""Weights, gradient buffers and optimizer state of every rank of a large world, as megatron-core makes them on meta.

One process pretends to be each rank in turn. For a process of its own: it bends megatron for good.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from egrc_mega.convert.family import Architecture
from egrc_mega.policy import cpu_backend, distributed  # noqa: F401  (first: it bends megatron to the CPU)
from egrc_mega.sections.policy import MegatronSection

# isort: split
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker

from egrc_mega.policy import optimizer as optim
from egrc_mega.policy.model import build_model, transformer_config


def states_by_rank(
    architecture: Architecture, section: MegatronSection, ranks: list[int], world_size: int
) -> list[dict[str, int]]:
    """Of each rank asked for: its pipeline stage, its place among its replicas, parameters, and bytes by kind."""
    _bend_to_meta()
    found = []
    for rank in ranks:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
        parallel_state.initialize_model_parallel(
            section.tensor_model_parallel_size,
            section.pipeline_model_parallel_size,
            section.virtual_pipeline_model_parallel_size,
            context_parallel_size=section.context_parallel_size,
            expert_model_parallel_size=section.expert_model_parallel_size,
            create_gloo_process_groups=False,
        )
        found.append(_measure(architecture, section))
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
    return found


def _bend_to_meta() -> None:
    initialize_rng_tracker(inference_rng_tracker=True)
    stand_in: Any = cpu_backend._CudaOnCpu
    stand_in.current_device = staticmethod(lambda: torch.device("meta"))
    state: Any = parallel_state
    state.get_data_parallel_group_gloo = lambda **_kwargs: state.get_data_parallel_group(with_context_parallel=True)
    state.get_expert_data_parallel_group_gloo = lambda **_kwargs: state.get_expert_data_parallel_group()
    tensor: Any = torch.Tensor
    if not hasattr(tensor.type, "is_of_meta"):
        tensor.type = _without_meta(tensor.type)


def _without_meta(tensor_type: Any) -> Any:
    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Megatron takes no other types than CUDA's."""
        result = tensor_type(self, *args, **kwargs)
        return result.replace(".meta.", ".") if isinstance(result, str) else result

    type_name.is_of_meta = True  # type: ignore[attr-defined]
    return type_name


def _measure(architecture: Architecture, section: MegatronSection) -> dict[str, int]:
    config = transformer_config(architecture, section)
    with torch.device("meta"):
        pieces = build_model(architecture, config)
        model = optim.wrap_model(pieces, config, section)
    optimizer = optim.build_optimizer(model, section)
    buffers = [buffer for module in model for buffer in (*module.buffers, *module.expert_parallel_buffers)]
    parameters = [parameter for piece in pieces for parameter in piece.parameters()]
    storages = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in parameters}
    return {
        "stage": parallel_state.get_pipeline_model_parallel_rank(),
        "replica": parallel_state.get_data_parallel_rank(with_context_parallel=True),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "weights": sum(storages.values()),
        "gradients": sum(buffer.grad_data.nbytes for buffer in buffers),
        "optimizer": sum(_optimizer_bytes(inner) for inner in optimizer.chained_optimizers),
    }


def _optimizer_bytes(inner: Any) -> int:
    names = ("shard_fp32_from_float16_groups", "fp32_from_float16_groups")
    groups = [group for name in names for group in getattr(inner, name, [])]
    masters = sum(master.nbytes for group in groups for master in group if master is not None)
    moments = [value for state in inner.optimizer.state.values() for value in state.values() if value.dim()]
    return masters + sum(moment.nbytes for moment in moments)
