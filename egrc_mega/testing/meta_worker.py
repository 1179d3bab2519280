"""Builds every rank's model of a large world on the meta device, in one process: no memory, no communication."""

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from egrc_mega.convert.family import Architecture
from egrc_mega.policy import distributed  # noqa: F401  (first: it bends megatron to the CPU)
from egrc_mega.sections.policy import MegatronSection

# isort: split
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker

from egrc_mega.policy.model import build_model, transformer_config


def parameters_by_rank(architecture: Architecture, section: MegatronSection, world_size: int) -> list[tuple[int, int]]:
    """(pipeline stage, number of parameters) of each rank, as megatron-core builds it."""
    found = []
    initialize_rng_tracker(inference_rng_tracker=True)
    for rank in range(world_size):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
        parallel_state.initialize_model_parallel(
            section.tensor_model_parallel_size,
            section.pipeline_model_parallel_size,
            section.virtual_pipeline_model_parallel_size,
            create_gloo_process_groups=False,
        )
        with torch.device("meta"):
            pieces = build_model(architecture, transformer_config(architecture, section))
        stage = parallel_state.get_pipeline_model_parallel_rank()
        found.append((stage, sum(parameter.numel() for piece in pieces for parameter in piece.parameters())))
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
    return found
