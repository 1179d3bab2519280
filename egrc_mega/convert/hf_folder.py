"""Reads and writes Hugging Face model folders: safetensors by mmap, and the small files that travel along.

The format of safetensors is written here and not by its library, which wants all tensors of a file in memory at once:
eight bytes of length, a JSON header, the tensors' bytes (https://github.com/huggingface/safetensors, "Format").
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from egrc_mega.convert.companions import companion_bytes, copy_companions
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.publish import new_folder
from egrc_mega.convert.trust import file_problem
from egrc_mega.convert.weight_files import INDEX, WEIGHTS, weight_files
from egrc_mega.errors import ModelError
from egrc_mega.manifest import FileEntry, HashedWriter, write_manifest

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""safetensors' names of the dtypes that models come in here."""
DEFAULT_SHARD_BYTES = 5 * 10**9

HfTensors = Iterator[tuple[str, torch.Tensor]]
"""All weights of a model by their Hugging Face names, one whole tensor after the other."""

Advance = Callable[[int], None]
"""Told the number of bytes that have been written since the last call."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor in a file."""

    file: str
    dtype: str
    """As safetensors names it, e.g. "BF16"."""
    shape: tuple[int, ...]


class HfReader:
    """The tensors of a model folder by name, read lazily from the mapped files.

    Raises:
        ModelError: it is not clear which files count (see `weight_files`), torn files, an index that disagrees with its
            files, a tensor in two of them. All problems are listed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.infos: dict[str, TensorInfo] = {}
        self._files: dict[str, safe_open] = {}
        files = weight_files(folder)
        weight_map = files.weight_map
        problems = [problem for file in files.names for problem in self._open(file)]
        if weight_map is not None and not problems:
            problems = [
                f"{INDEX} puts {name} into {file}, it is in {found.file if found else 'none of the files'}"
                for name, file in sorted(weight_map.items())
                if not (found := self.infos.get(name)) or found.file != file
            ]
            unlisted = sorted(self.infos.keys() - weight_map.keys())
            problems += [f"{self.infos[name].file}: {name} is not in {INDEX}" for name in unlisted]
        if problems:
            raise ModelError("\n".join(f"{folder}: {problem}" for problem in problems))

    def names(self) -> set[str]:
        """The names of all tensors of the folder."""
        return set(self.infos)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor in its own dtype: a view of the mapped file."""
        if name not in self.infos:
            raise ModelError(f"{self.folder}: tensor {name} is missing")
        return self._files[self.infos[name].file].get_tensor(name)

    def _open(self, name: str) -> Iterator[str]:
        """Map one file and note its tensors; yields what is wrong with it."""
        if problem := file_problem(self.folder, name):
            yield f"{name}: not a whole safetensors file: {problem}"
            return
        try:
            file = self._files[name] = safe_open(self.folder / name, framework="pt")
        except (OSError, SafetensorError) as error:
            yield f"{name}: not a whole safetensors file: {error}"
            return
        for tensor in file.keys():  # noqa: SIM118 (a safe_open is no mapping)
            if tensor in self.infos:
                yield f"{tensor} is in {self.infos[tensor].file} and in {name}"
            part = file.get_slice(tensor)
            self.infos[tensor] = TensorInfo(name, part.get_dtype(), tuple(part.get_shape()))


def write_folder(
    folder: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    architecture: Architecture,
    source: Path,
    dtype: torch.dtype,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    durable: bool = False,
    replaces: bool = True,
    advance: Advance = lambda _count: None,
) -> None:
    """Write a whole model folder: weights, the source's config, tokenizer and license, and a manifest.

    The folder appears under its name only when it is complete. Weight sync, the export of a run and the converter all
    come through here.

    Args:
        tensors: in the order of the architecture's table; any dtype, any device. One is held at a time.
        durable: wait until the disk has everything.
        replaces: an earlier folder of that name gives way, if this program has written it.

    Raises:
        ModelError: something else is there, a companion is not the source's own, or a value is too large for `dtype`.
        StorageError: the disk has no room.
    """
    num_bytes = weight_bytes(architecture, dtype) + companion_bytes(source)
    with new_folder(folder, durable=durable, replaces=replaces, num_bytes=num_bytes) as partial:
        copy_companions(source, partial, dtype)
        entries = _write_weights(partial, tensors, architecture, dtype, max_shard_bytes, durable, advance)
        write_manifest(partial, entries, durable=durable)


def weight_bytes(architecture: Architecture, dtype: torch.dtype) -> int:
    """How many bytes of weights a folder has."""
    return sum(math.prod(shape) for _name, shape in architecture.hf_shapes()) * dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Spec:
    name: str
    shape: tuple[int, ...]
    num_bytes: int


def _write_weights(
    folder: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    architecture: Architecture,
    dtype: torch.dtype,
    max_shard_bytes: int,
    durable: bool,
    advance: Advance,
) -> dict[str, FileEntry]:
    shards = _plan_shards(architecture, dtype, max_shard_bytes)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else [WEIGHTS]
    remaining, entries = iter(tensors), {}
    for file, shard in zip(names, shards, strict=True):
        with HashedWriter(folder / file, durable=durable) as writer:
            writer.write(_header(shard, dtype))
            writer.mark("the header")
            for spec in shard:
                name, tensor = next(remaining)
                assert (name, tuple(tensor.shape)) == (spec.name, spec.shape), f"{name} came in place of {spec}"
                advance(writer.write(to_bytes(cast(name, tensor, dtype), dtype)))
                writer.mark(name)
            entries[file] = writer.finish()
    assert next(remaining, None) is None, "more tensors than the table has"
    if len(shards) > 1:
        weight_map = {spec.name: file for file, shard in zip(names, shards, strict=True) for spec in shard}
        total = sum(spec.num_bytes for shard in shards for spec in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return entries


def _plan_shards(architecture: Architecture, dtype: torch.dtype, max_shard_bytes: int) -> list[list[_Spec]]:
    """The tensors of each file, in the table's order; a tensor larger than a shard gets one of its own."""
    shards: list[list[_Spec]] = [[]]
    filled = 0
    for name, shape in architecture.hf_shapes():
        spec = _Spec(name, shape, math.prod(shape) * dtype.itemsize)
        if shards[-1] and filled + spec.num_bytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.num_bytes
    return shards


def _header(shard: Sequence[_Spec], dtype: torch.dtype) -> bytes:
    name_of = {value: key for key, value in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in shard:
        begin, end = end, end + spec.num_bytes
        header[spec.name] = {"dtype": name_of[dtype], "shape": spec.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in `dtype`.

    Raises:
        ModelError: a value is too large for it.
    """
    converted = tensor.to(dtype)
    if dtype is torch.float16 and tensor.dtype is not dtype and bool((converted.isinf() & ~tensor.isinf()).any()):
        largest = float(tensor.abs().max())
        raise ModelError(f"--dtype float16: {name} holds {largest:.6g}, too large; use bfloat16 or float32")
    return converted


def to_bytes(tensor: torch.Tensor, dtype: torch.dtype) -> memoryview:
    """The bytes of a tensor in `dtype`, without a copy where it is contiguous on the CPU already."""
    flat = tensor.detach().to("cpu", dtype).contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data
