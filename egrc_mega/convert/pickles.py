"""Pickles of checkpoints: read without running what they name, or refused before somebody else reads them.

Megatron's `.metadata` is a pickle, and torch loads it, and the objects beside the tensors, without a limit on what they
may call. The converter never does; before `--resume` hands a step to megatron its pickles are looked through.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.planner import SavePlan

from egrc_mega.convert.trust import file_problem
from egrc_mega.errors import CheckpointError

METADATA, COMMON = ".metadata", "common.pt"


class MetadataUnpickler(pickle.Unpickler):
    """Makes the few classes that describe tensors, and inert stand-ins for all others: no code of a pickle is run."""

    ALLOWED = frozenset(
        {("torch", "Size"), ("torch.serialization", "_get_layout"), (_StorageInfo.__module__, "_StorageInfo")}
        | {
            (dcp.__name__, name)
            for name in (
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.ALLOWED:
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _Inert


class _Inert:
    """Takes whatever a pickle does to an object, and forgets it."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        """Takes what a list would take, and keeps nothing."""

    def extend(self, _values: Any) -> None:
        """Takes what a list would take, and keeps nothing."""


class _StrictUnpickler(MetadataUnpickler):
    """Makes what a training checkpoint describes its tensors with, and refuses all others."""

    ALLOWED = MetadataUnpickler.ALLOWED | frozenset(
        {(dcp.__name__, "StorageMeta")}
        | {(SavePlan.__module__, name) for name in ("SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")}
    )

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if found is _Inert:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no tensor")
        return found


def shard_files(folder: Path) -> set[str]:
    """Names of the files in which a checkpoint's description says that tensors and objects lie; runs no code of it.

    Raises:
        CheckpointError: the description is torn or no regular file.
    """
    path = folder / METADATA
    if problem := file_problem(folder, METADATA):
        raise CheckpointError(f"{path}: {problem}")
    try:
        with path.open("rb") as file:
            return {str(info.relative_path) for info in MetadataUnpickler(file).load().storage_data.values()}
    except Exception as error:  # a torn pickle raises anything
        raise CheckpointError(f"{path}: cannot be read: {error}; resume another step") from error


def require_harmless(folder: Path) -> None:
    """Refuse a checkpoint whose pickles would do more than describe and hold tensors, before anybody loads them.

    Raises:
        CheckpointError: naming the file and what it would have called, or that it is torn.
    """
    path = folder / METADATA
    if problem := file_problem(folder, METADATA):
        raise CheckpointError(f"{path}: {problem}")
    try:
        with path.open("rb") as file:
            metadata = _StrictUnpickler(file).load()
        kinds = metadata.state_dict_metadata.items()
        objects = {key for key, value in kinds if not isinstance(value, dcp.TensorStorageMetadata)}
        places = [(index.fqn, info) for index, info in metadata.storage_data.items() if index.fqn in objects]
    except Exception as error:  # a torn pickle raises anything
        raise CheckpointError(f"{path}: not to be loaded: {error}; resume only what a run has written") from error
    if (folder / COMMON).exists():
        _require_harmless_object(folder, "what is common to all ranks", COMMON)
    for key, info in places:
        _require_harmless_object(folder, key, str(info.relative_path), info.offset, info.length)


def _require_harmless_object(folder: Path, key: str, name: str, offset: int = 0, length: int = -1) -> None:
    """An object beside the tensors, such as a module's extra state: numbers, texts and tensors are all it may be.

    `offset` and `length` say where it lies in its file; without them it is all of it.
    """
    if problem := "a file outside the folder" if Path(name).name != name else file_problem(folder, name):
        raise CheckpointError(f"{folder / METADATA}: {name}: {problem}")
    try:
        with (folder / name).open("rb") as file:
            file.seek(offset)
            with torch.serialization.safe_globals([io.BytesIO]):
                torch.load(io.BytesIO(file.read(length)), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises anything, too
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{folder / name}: {key} is not to be loaded: {reason[0]}") from error
