"""Says what a checkpoint holds and what each rank of a layout would hold of it."""

import math
from pathlib import Path

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.family import Architecture, Entry
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.parallel import (
    ParallelLayout,
    layers_text,
    layout_problems,
    parameters_of_rank,
    rank_shape,
    stage_layers,
)
from egrc_mega.convert.presets import PRESETS
from egrc_mega.convert.source import HfSource, check_source, open_source, unless_removed
from egrc_mega.errors import ModelError


def inspect(what: str, layout: ParallelLayout, model: Path | None = None) -> str:
    """The page of `egrc convert inspect`: what config.json says, the rules of the table, then the pipeline stages.

    Args:
        what: a checkpoint of any format, or the name of a preset.

    Raises:
        ModelError, CheckpointError: nothing of the kind, damaged, or the layout is impossible.
    """
    if what in PRESETS:
        architecture = architecture_of(HfConfig(dict(PRESETS[what]), what))
        origin, dtype = f"preset {what}", str(architecture.dtype)
    elif not Path(what).exists():
        raise ModelError(f"{what} is neither a folder nor a preset; presets are {', '.join(sorted(PRESETS))}")
    else:
        with unless_removed(Path(what)):
            source = open_source(Path(what), model)
            check_source(source, any_dtype=True)
            architecture, dtype = source.architecture, str(source.dtype()).removeprefix("torch.")
        origin = f"{'Hugging Face' if isinstance(source, HfSource) else 'Megatron'} checkpoint {source.path}"
    problems = list(layout_problems(architecture, layout))
    if problems:
        raise ModelError("\n".join(problems))
    parts = (
        _head(architecture, origin, dtype),
        _record(architecture),
        _table(architecture, layout, dtype),
        _stages(architecture, layout),
    )
    return "\n\n".join("\n".join(lines) for lines in parts)


def _head(architecture: Architecture, origin: str, dtype: str) -> list[str]:
    total = sum(math.prod(entry.shape) for entry in architecture.entries())
    heads = f"{architecture.num_heads} heads of {architecture.head_dim} in {architecture.num_query_groups} query groups"
    sizes = (
        f"{architecture.num_layers} layers, hidden size {architecture.hidden_size}, {heads}, "
        f"vocabulary {architecture.vocab_size}"
    )
    experts = f", {architecture.num_experts} experts" if architecture.num_experts else ""
    tied = "tied" if architecture.tied else "untied"
    return [origin, f"{sizes}{experts}, {tied} embeddings", f"{total:,} parameters, {dtype}"]


def _record(architecture: Architecture) -> list[str]:
    """What config.json says, or leaves to transformers' default."""
    told = [f"  {name} = {said.value!r} ({said.origin})" for name, said in sorted(architecture.record.items())]
    return ["config.json, as transformers reads it:", *told]


def _table(architecture: Architecture, layout: ParallelLayout, dtype: str) -> list[str]:
    tensor = layout.tensor_model_parallel_size
    rows: list[tuple[str, ...]] = [("Megatron", "shape", f"on a rank of {tensor}", "dtype", "times", "Hugging Face")]
    for entry in _one_of_each(architecture):
        number = math.prod(entry.stack)
        shapes = [list(entry.shape), list(rank_shape(entry, architecture, tensor))]
        names = " ".join(name.replace("model.layers.0.", "").replace("experts.0.", "") for name in entry.hf)
        rows.append((entry.key, *map(str, shapes), dtype, str(number), names))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _one_of_each(architecture: Architecture) -> list[Entry]:
    """The entries of the first layer and the first expert, and those outside the layers."""
    return [entry for entry in architecture.entries() if not any(entry.index)]


def _stages(architecture: Architecture, layout: ParallelLayout) -> list[str]:
    stages = stage_layers(architecture.num_layers, layout)
    lines = [
        f"parameters on each rank: tensor {layout.tensor_model_parallel_size}, "
        f"pipeline {layout.pipeline_model_parallel_size}, expert {layout.expert_model_parallel_size}"
    ]
    for stage, pieces in enumerate(stages):
        count = parameters_of_rank(architecture, layout, stage)
        lines.append(f"  stage {stage}, {layers_text(pieces)}: {count:,}")
    return lines
