"""Reads and writes megatron-core's sharded checkpoints (`torch_dist`) without a process group and without megatron.

A checkpoint is a folder: `.metadata` (a pickled torch.distributed.checkpoint Metadata: for each key its whole shape and
its chunks, for each chunk a file, an offset, a length), `*.distcp` (one `torch.save` archive after another),
`common.pt` and `metadata.json`. Layers, and experts within them, are stacked on leading axes of one key.
Upstream: megatron/core/dist_checkpointing/strategies/torch.py, torch/distributed/checkpoint/filesystem.py.
"""

import io
import json
import math
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

from egrc_mega.convert.archive import save_value, without_checksums
from egrc_mega.convert.pickles import COMMON, METADATA, MetadataUnpickler
from egrc_mega.convert.trust import file_problem
from egrc_mega.errors import CheckpointError
from egrc_mega.manifest import FileEntry, HashedWriter

BACKEND = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}
ALIGNMENT = 64
DEFAULT_SHARD_BYTES = 10**9
"""Smaller than Hugging Face's habit: several files are hashed and read side by side."""
LOCAL_HEADER_BYTES = 30
"""Fixed part of a zip archive's local file header."""

STACKED_AXES = 2
"""Layers, and experts in them."""

Shape = tuple[int, ...]
Block = list[tuple[int, int]]
"""(start, size) on each axis."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block of a tensor and where its archive lies."""

    offsets: Shape
    sizes: Shape
    file: str
    offset: int
    length: int


@dataclass(slots=True)
class StoredTensor:
    """One key of a checkpoint."""

    shape: Shape
    dtype: torch.dtype
    _chunks: dict[Shape, list[Chunk]] = field(default_factory=dict)
    """By the places of their leading axes of length one: experts by the thousand are found, not searched for."""

    def add(self, chunk: Chunk) -> None:
        """Note a chunk; chunks never overlap in a sound checkpoint."""
        self._chunks.setdefault(_stack_place(chunk.offsets, chunk.sizes), []).append(chunk)

    def overlaps(self, offsets: Shape, sizes: Shape) -> list[tuple[Chunk, Block]]:
        """The chunks that hold a part of a block, each with that part."""
        place = _stack_place(offsets, sizes)
        prefixes = [place[:depth] for depth in range(len(place) + 1)]
        # what is stacked less deeply than the block may hold it too; what is stacked more deeply is looked through
        deeper = [key for key in self._chunks if len(key) > len(place)] if len(place) < STACKED_AXES else []
        near = [chunk for key in (*prefixes, *deeper) for chunk in self._chunks.get(key, ())]
        return [(chunk, block) for chunk in near if (block := _overlap(chunk, offsets, sizes))]

    def covered(self, offsets: Shape, sizes: Shape) -> int:
        """How many elements of a block the chunks hold."""
        return sum(math.prod(size for _start, size in block) for _chunk, block in self.overlaps(offsets, sizes))

    def files(self) -> set[str]:
        """Names of the files that hold its chunks."""
        return {chunk.file for chunks in self._chunks.values() for chunk in chunks}


class TorchDistReader:
    """The tensors of a checkpoint folder by key, read block by block from the mapped files.

    Raises:
        CheckpointError: no such checkpoint, or its metadata is torn.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors = _read_metadata(folder)
        self._files: dict[str, Any] = {}

    def read(self, key: str, offsets: Shape, sizes: Shape) -> torch.Tensor:
        """A block of a tensor; a view of the mapped file where one chunk is that block.

        Raises:
            CheckpointError: the chunks do not hold all of it, or a file is torn.
        """
        stored = self.tensors[key]
        parts = stored.overlaps(offsets, sizes)
        if len(parts) == 1 and parts[0][0].offsets == offsets and parts[0][0].sizes == sizes:
            return self._load(key, stored, parts[0][0])
        if stored.covered(offsets, sizes) != math.prod(sizes):
            raise CheckpointError(f"{self.folder}: {key} has no value in a part of {list(offsets)} + {list(sizes)}")
        result = torch.empty(sizes, dtype=stored.dtype)
        for chunk, block in parts:
            source, target = self._load(key, stored, chunk), result
            for axis, (start, size) in enumerate(block):
                source = source.narrow(axis, start - chunk.offsets[axis], size)
                target = target.narrow(axis, start - offsets[axis], size)
            target.copy_(source)
        return result

    def _load(self, key: str, stored: StoredTensor, chunk: Chunk) -> torch.Tensor:
        try:
            tensor = _map_archive(self._map(chunk.file), chunk)
        except Exception as error:  # whatever a torn or hostile archive ends in
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(f"{self.folder / chunk.file}: {key} cannot be read: {reason[0]}") from error
        if tuple(tensor.shape) != chunk.sizes or tensor.dtype != stored.dtype:
            found = f"{list(tensor.shape)} {tensor.dtype}"
            raise CheckpointError(f"{self.folder / chunk.file}: {key} is {found}, {METADATA} says {list(chunk.sizes)}")
        return tensor

    def _map(self, name: str) -> Any:
        if name not in self._files:
            path = self.folder / name
            if problem := file_problem(self.folder, name):
                raise ValueError(problem)
            size = path.stat().st_size
            self._files[name] = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
        return self._files[name]


class TorchDistWriter:
    """Writes a checkpoint block by block into an existing folder."""

    def __init__(self, folder: Path, *, max_shard_bytes: int, durable: bool) -> None:
        self.folder, self.max_shard_bytes, self.durable = folder, max_shard_bytes, durable
        self.entries: dict[str, FileEntry] = {}
        self._tensors: dict[str, dcp.STORAGE_TYPES] = {}
        self._storage: dict[dcp.MetadataIndex, _StorageInfo] = {}
        self._writer: HashedWriter | None = None
        self._name = ""

    def add(self, key: str, shape: Shape, offsets: Shape, tensor: torch.Tensor) -> int:
        """Append a block of `key`, whose whole shape is `shape`; returns the bytes written."""
        place = torch.Size(offsets)
        stored = self._tensors.get(key)
        if stored is None:
            properties = dcp.TensorProperties(dtype=tensor.dtype)
            stored = self._tensors[key] = dcp.TensorStorageMetadata(properties, torch.Size(shape), [])
        assert isinstance(stored, dcp.TensorStorageMetadata)
        stored.chunks.append(dcp.ChunkStorageMetadata(place, tensor.shape))
        name = f"{key} {list(offsets)}"
        self._storage[dcp.MetadataIndex(key, place)] = self._append(name, tensor.nbytes, tensor)
        return tensor.nbytes

    def add_empty_object(self, key: str, index: Shape, stack: Shape) -> None:
        """The `_extra_state` of a module that has none: megatron asks for the key when it loads."""
        offset, lengths = ".".join(map(str, index or (0,))), ".".join(map(str, stack or (1,)))
        unique = f"{key}/shard_{offset}_{lengths}"
        self._tensors[unique] = dcp.BytesStorageMetadata()
        self._storage[dcp.MetadataIndex(unique)] = self._append(unique, 0, [None])

    def finish(self, common: dict[str, Any]) -> None:
        """Write what is not tensors; after this the folder is a checkpoint."""
        self._close()
        metadata = dcp.Metadata(state_dict_metadata=self._tensors, storage_data=self._storage)
        write_metadata(self.folder, metadata)
        with without_checksums(), HashedWriter(self.folder / COMMON, durable=self.durable) as writer:
            save_value(common, writer)
            self.entries[COMMON] = writer.finish()
        (self.folder / "metadata.json").write_text(json.dumps(BACKEND))

    def _append(self, name: str, num_bytes: int, value: Any) -> _StorageInfo:
        if self._writer and self._writer.size_bytes + num_bytes > self.max_shard_bytes:
            self._close()
        if self._writer is None:
            self._name = f"__0_{len(self.entries)}.distcp"
            self._writer = HashedWriter(self.folder / self._name, durable=self.durable)
        begin = self._writer.size_bytes
        with without_checksums():
            save_value(value, self._writer)
        length = self._writer.size_bytes - begin
        self._writer.write(bytes(-self._writer.size_bytes % ALIGNMENT))
        self._writer.mark(name)
        return _StorageInfo(self._name, begin, length)

    def _close(self) -> None:
        if self._writer:
            with self._writer as writer:
                self.entries[self._name] = writer.finish()
            self._writer = None


def _stack_place(offsets: Shape, sizes: Shape) -> Shape:
    """The place on the leading axes on which a block has length one; the last axis never counts."""
    depth = 0
    while depth < min(STACKED_AXES, len(sizes) - 1) and sizes[depth] == 1:
        depth += 1
    return offsets[:depth]


def _overlap(chunk: Chunk, offsets: Shape, sizes: Shape) -> Block | None:
    """What a chunk and a block share; None: nothing."""
    block = []
    for begin, size, other_begin, other_size in zip(chunk.offsets, chunk.sizes, offsets, sizes, strict=True):
        start = max(begin, other_begin)
        length = min(begin + size, other_begin + other_size) - start
        if length <= 0:
            return None
        block.append((start, length))
    return block


def _map_archive(storage: torch.UntypedStorage, chunk: Chunk) -> torch.Tensor:
    """The one tensor of a `torch.save` archive that lies inside a mapped file, without copying its data.

    Its description is unpickled by torch's restricted unpickler; the bytes are found through the archive's directory.
    """
    if chunk.offset + chunk.length > storage.nbytes():
        raise ValueError(f"the file ends at {storage.nbytes()}, the archive at {chunk.offset + chunk.length}")
    archive: Any = _Window(_bytes(storage, chunk.offset, chunk.length).numpy().data)
    described = torch.load(archive, map_location="meta", weights_only=True)
    with zipfile.ZipFile(archive) as directory:
        (data,) = [info for info in directory.infolist() if info.filename.split("/")[1:] == ["data", "0"]]
    begin = described.storage_offset() * described.element_size()
    if data.compress_type != zipfile.ZIP_STORED or not described.is_contiguous():
        archive.seek(0)
        whole: torch.Tensor = torch.load(archive, weights_only=True)
        return whole.contiguous()
    if begin + described.nbytes > data.file_size:
        raise ValueError(f"it describes {begin + described.nbytes} bytes, and holds {data.file_size}")
    archive.seek(data.header_offset)
    header = archive.read(LOCAL_HEADER_BYTES)
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    begin += chunk.offset + data.header_offset + LOCAL_HEADER_BYTES + names
    if begin + described.nbytes > chunk.offset + chunk.length:
        raise ValueError("its values go on after the end of the archive")
    return _bytes(storage, begin, described.nbytes).view(described.dtype).reshape(described.shape)


def _bytes(storage: Any, begin: int, length: int) -> torch.Tensor:
    """A part of a mapped file as a tensor of its own; may begin anywhere, unlike a view of a larger tensor."""
    return torch.asarray(storage[begin : begin + length], dtype=torch.uint8)


class _Window(io.RawIOBase):
    """Bytes in memory that read like a file, without a copy of them all."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._position = data, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def _read_metadata(folder: Path) -> dict[str, StoredTensor]:
    if problem := file_problem(folder, METADATA):
        raise CheckpointError(f"{folder} is no Megatron checkpoint: {METADATA}: {problem}")
    try:
        with (folder / METADATA).open("rb") as file:
            metadata = MetadataUnpickler(file).load()
        tensors = {
            key: StoredTensor(tuple(value.size), value.properties.dtype)
            for key, value in metadata.state_dict_metadata.items()
            if isinstance(value, dcp.TensorStorageMetadata)
        }
        _place_chunks(tensors, metadata)
    except OSError as error:
        raise CheckpointError(f"{folder} is no Megatron checkpoint: {error}") from error
    except Exception as error:  # a torn pickle raises anything
        raise CheckpointError(f"{folder / METADATA}: torn or of an unknown version: {error!r}") from error
    outside = [file for tensor in tensors.values() for file in tensor.files() if Path(file).name != file]
    if outside:
        raise CheckpointError(f"{folder / METADATA}: {sorted(outside)[0]} points outside the folder")
    return tensors


def _place_chunks(tensors: dict[str, StoredTensor], metadata: dcp.Metadata) -> None:
    sizes = {
        (key, chunk.offsets): tuple(chunk.sizes)
        for key in tensors
        for chunk in metadata.state_dict_metadata[key].chunks  # type: ignore[union-attr]
    }
    for index, info in metadata.storage_data.items():
        if index.fqn in tensors:
            size = sizes[index.fqn, index.offset]
            chunk = Chunk(tuple(index.offset), size, str(info.relative_path), info.offset, info.length)
            numbers = (*tensors[index.fqn].shape, *chunk.offsets, *chunk.sizes, chunk.offset, chunk.length)
            if any(not isinstance(number, int) or number < 0 for number in numbers):
                raise ValueError(f"a part of {index.fqn} lies at {chunk}")
            tensors[index.fqn].add(chunk)


def write_metadata(folder: Path, metadata: dcp.Metadata) -> None:
    """Write where each tensor lies, as torch reads it."""
    (folder / METADATA).write_bytes(pickle.dumps(metadata))
