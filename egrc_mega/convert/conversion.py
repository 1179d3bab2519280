"""Whole conversions: proof first, then one entry of the table after the other, then the name of the result.

No process group, no GPU, no model in memory: at any time one parameter is held, the rest are mapped files.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from egrc_mega.convert import layout, torch_dist
from egrc_mega.convert.companions import companion_bytes, copy_companions, left_out
from egrc_mega.convert.family import Entry
from egrc_mega.convert.hf_folder import (
    DEFAULT_SHARD_BYTES,
    DTYPES,
    Advance,
    HfTensors,
    cast,
    weight_bytes,
    write_folder,
)
from egrc_mega.convert.parallel import ParallelLayout, layout_problems
from egrc_mega.convert.publish import new_folder, remove_dead
from egrc_mega.convert.shapes import padded_shape
from egrc_mega.convert.source import (
    COMPANION_FOLDER,
    LATEST,
    HfSource,
    MegatronSource,
    Source,
    check_source,
    open_source,
)
from egrc_mega.convert.torch_dist import TorchDistWriter
from egrc_mega.errors import CheckpointError, ConfigError, ModelError
from egrc_mega.manifest import sync, write_manifest

ITERATION = 1
"""Megatron takes iteration 0 for no checkpoint at all."""


Note = Callable[[str], None]
"""Told a line for people."""


def parse_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of a name such as "bfloat16"; None stays None.

    Raises:
        ConfigError: no dtype that models come in here.
    """
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
    if name is not None and name not in known:
        raise ConfigError(f"--dtype: {name!r} is unknown, give one of {', '.join(sorted(known))}")
    return known[name] if name else None


def parse_size(text: str) -> int:
    """Bytes of a size such as "5GB", "500 MB" or "1073741824".

    Raises:
        ConfigError: no such size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size <= 0:
        raise ConfigError(f"--shard-size: {text!r} is no size, give e.g. 5GB")
    return size


def total_bytes(source: Source, dtype: torch.dtype | None) -> int:
    """How many bytes of tensors a conversion of `source` writes, padding aside."""
    return weight_bytes(source.architecture, dtype or source.dtype())


def hf_to_megatron(
    source: Path | Source,
    target: Path,
    *,
    parallel: ParallelLayout | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = torch_dist.DEFAULT_SHARD_BYTES,
    advance: Advance = lambda _count: None,
    note: Note = lambda _text: None,
) -> None:
    """Write a Megatron checkpoint that megatron-core loads at any layout.

    Args:
        parallel: proven to be possible; its tensor-parallel size sets the padding of the vocabulary.
        dtype: of the result; None keeps the source's.
        advance: told of the bytes as they are written.
        note: told, line by line, what is not carried over as it is.

    Raises:
        ModelError, CheckpointError: the source cannot be used, the layout is impossible, or the target exists. Nothing
            is written then.
    """
    _require_new(target)
    parallel = parallel or ParallelLayout()
    source = open_source(source) if isinstance(source, Path) else source
    if not isinstance(source, HfSource):
        raise ModelError(f"{source.path} is a Megatron checkpoint already; give a Hugging Face folder")
    check_source(source, any_dtype=dtype is not None, more=layout_problems(source.architecture, parallel))
    for line in left_out(source.companions):
        note(line)
    num_bytes = total_bytes(source, dtype) + companion_bytes(source.companions)
    with new_folder(target, durable=True, num_bytes=num_bytes) as partial:
        folder = partial / f"iter_{ITERATION:07}"
        (folder / COMPANION_FOLDER).mkdir(parents=True)
        copy_companions(source.companions, folder / COMPANION_FOLDER, dtype)
        writer = TorchDistWriter(folder, max_shard_bytes=max_shard_bytes, durable=True)
        for entry in source.architecture.entries():
            advance(_write_entry(writer, entry, source, dtype, parallel.tensor_model_parallel_size))
        for key, index, stack in _stateless_modules(source):
            writer.add_empty_object(f"{key}_extra_state", index, stack)
        writer.finish({"iteration": ITERATION, "checkpoint_version": 3.0})
        write_manifest(folder, writer.entries, durable=True)
        (partial / LATEST).write_text(str(ITERATION))
        for path in (partial / LATEST, partial):
            sync(path)


def megatron_to_hf(
    source: Path | Source,
    target: Path,
    *,
    model: Path | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    advance: Advance = lambda _count: None,
    note: Note = lambda _text: None,
) -> None:
    """Write a Hugging Face folder from a Megatron checkpoint: of `hf_to_megatron`, of a run's step, of another tool.

    Args:
        model: folder with config.json, tokenizer and license, for checkpoints that do not carry them.
        dtype: of the result; None keeps the source's.
        note: see `hf_to_megatron`.

    Raises:
        ModelError, CheckpointError: the source cannot be used, or the target exists. Nothing is written then.
    """
    _require_new(target)
    opened = open_source(source, model) if isinstance(source, Path) else source
    if not isinstance(opened, MegatronSource):
        raise CheckpointError(f"{opened.path} is no Megatron checkpoint but a Hugging Face folder already")
    check_source(opened, any_dtype=dtype is not None)
    for line in left_out(opened.companions):
        note(line)
    write_folder(
        target,
        _hf_tensors(opened, dtype),
        architecture=opened.architecture,
        source=opened.companions,
        dtype=dtype or opened.dtype(),
        max_shard_bytes=max_shard_bytes,
        durable=True,
        replaces=False,
        advance=advance,
    )


def _hf_tensors(source: Source, dtype: torch.dtype | None) -> HfTensors:
    for entry in source.architecture.entries():
        yield from zip(entry.hf, _tensors(source, entry, dtype), strict=True)


def _tensors(source: Source, entry: Entry, dtype: torch.dtype | None) -> list[torch.Tensor]:
    """The Hugging Face tensors of an entry in `dtype`.

    Raises:
        ModelError: a value is too large for it.
    """
    tensors = source.tensors(entry)
    if dtype is None:
        return tensors
    return [cast(name, tensor, dtype) for name, tensor in zip(entry.hf, tensors, strict=True)]


def _write_entry(writer: TorchDistWriter, entry: Entry, source: Source, dtype: torch.dtype | None, tensor: int) -> int:
    """Append one parameter; returns the bytes of its tensors."""
    padded = padded_shape(entry, source.architecture, tensor)
    shape, written = (*entry.stack, *padded), 0
    lead = (1,) * len(entry.index)

    def add(row: int, piece: torch.Tensor) -> int:
        offsets = (*entry.index, row, *(0 for _ in piece.shape[1:]))
        return writer.add(entry.key, shape, offsets, piece.reshape(*lead, *piece.shape))

    for row, piece in layout.to_pieces(entry, _tensors(source, entry, dtype), source.architecture):
        written += add(row, piece)
    if missing := padded[0] - entry.shape[0]:
        add(entry.shape[0], torch.zeros(missing, *entry.shape[1:], dtype=dtype or source.dtype()))
    return written


def _stateless_modules(source: Source) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """(key with a dot, index, stack) of every module of the decoder: megatron asks each for its `_extra_state`."""
    seen: dict[tuple[str, tuple[int, ...]], Any] = {}
    for entry in source.architecture.entries():
        if entry.key.startswith("decoder."):
            module = entry.key.rsplit(".", 1)[0]
            seen[f"{module}.", entry.index] = entry.stack
            if module.endswith("self_attention.linear_qkv"):
                seen[f"{module.removesuffix('linear_qkv')}core_attention.", entry.index] = entry.stack
    for (key, index), stack in seen.items():
        yield key, index, stack


def _require_new(target: Path) -> None:
    remove_dead(target)
    if os.path.lexists(target):
        raise ModelError(f"{target} exists already; choose another folder")
