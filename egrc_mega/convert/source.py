"""One view of every checkpoint format: for each entry of the table, its Hugging Face tensors.

Import, export and comparison read through this, so there is one answer to what a checkpoint holds.
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from egrc_mega.convert import layout
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.convert.family import Architecture, Entry, Kind
from egrc_mega.convert.hf_folder import DTYPES, HfReader
from egrc_mega.convert.pickles import METADATA
from egrc_mega.convert.proof import HEAD, hf_problems, most_common_dtype, table_problems
from egrc_mega.convert.torch_dist import TorchDistReader
from egrc_mega.errors import CheckpointError, EgrcError, ModelError
from egrc_mega.json_file import read_line
from egrc_mega.manifest import MANIFEST, damages

LATEST = "latest_checkpointed_iteration.txt"
COMPANION_FOLDER = "huggingface"
"""Folder in a Megatron checkpoint with the model's config.json, tokenizer and license."""
EMBEDDING = "model.embed_tokens.weight"
PARAMETERS = ("embedding.", "decoder.", "output_layer.")
"""How the keys of a model begin; what else a training checkpoint has is optimizer state and the like."""
MAX_DIGITS = 12
"""Of an iteration's number."""
MAX_PROBLEMS = 100
"""A wrong config.json says something about every tensor."""


class Source(Protocol):
    """A checkpoint that can be read through its family's table."""

    path: Path
    architecture: Architecture
    companions: Path
    """Folder with config.json and what else travels."""

    def problems(self, *, any_dtype: bool = False) -> Iterator[str]:
        """What shapes, names, dtypes and tied values say against it."""

    def dtype(self) -> torch.dtype:
        """The dtype that most of its tensors have."""

    def tensors(self, entry: Entry) -> list[torch.Tensor]:
        """The Hugging Face tensors of an entry; views of the mapped files where nothing is interleaved or split."""


class HfSource:
    """A Hugging Face folder."""

    def __init__(self, path: Path) -> None:
        self.path = self.companions = path
        self.architecture = read_architecture(path)
        self.reader = HfReader(path)

    def problems(self, *, any_dtype: bool = False) -> Iterator[str]:
        yield from table_problems(self.architecture)
        found = list(hf_problems(self.architecture, self.reader.infos, any_dtype=any_dtype))
        yield from found
        names = self.reader.names()
        if not found and self.architecture.tied and HEAD in names:
            head, embedding = self.reader.tensor(HEAD), self.reader.tensor(EMBEDDING)
            if not same_bits(head, embedding):
                file = self.reader.infos[HEAD].file
                yield f"{file}: {HEAD} differs from {EMBEDDING}, but config.json says tie_word_embeddings is true"

    def dtype(self) -> torch.dtype:
        return most_common_dtype(info.dtype for info in self.reader.infos.values())

    def tensors(self, entry: Entry) -> list[torch.Tensor]:
        return [self.reader.tensor(name) for name in entry.hf]


class MegatronSource:
    """A Megatron checkpoint: of this converter, of a run, or of another tool, with `model` for its config.json."""

    def __init__(self, path: Path, model: Path | None = None) -> None:
        self.path = path
        self.companions = model or path / COMPANION_FOLDER
        if not (self.companions / "config.json").is_file():
            raise ModelError(f"{path} does not say which model it is; give its Hugging Face folder with --model")
        self.architecture = read_architecture(self.companions)
        self.reader = TorchDistReader(path)

    def problems(self, *, any_dtype: bool = False) -> Iterator[str]:
        """See `Source`. The stored dtype is the truth here: config.json is made to state it on export."""
        yield from table_problems(self.architecture)
        used = set()
        for entry in self.architecture.entries():
            try:
                key, index, stack = self._place(entry)
            except CheckpointError as error:
                yield str(error)
                continue
            used.add(key)
            yield from self._entry_problems(entry, key, index, stack)
        for key in sorted(self.reader.tensors.keys() - used):
            # optimizer state and the like of a training checkpoint stay behind
            if key.startswith(PARAMETERS) and "_extra_state" not in key:
                yield f"{key} is in no rule of the family's table"
        dtypes = {str(self.reader.tensors[key].dtype) for key in used}
        if len(dtypes) > 1 and not any_dtype:
            yield f"parameters have several dtypes, {sorted(dtypes)}; convert with --dtype"

    def dtype(self) -> torch.dtype:
        names = {dtype: name for name, dtype in DTYPES.items()}
        stored = [tensor for key, tensor in self.reader.tensors.items() if key.startswith(PARAMETERS)]
        return most_common_dtype(names.get(tensor.dtype, "") for tensor in stored)

    def tensors(self, entry: Entry) -> list[torch.Tensor]:
        key, index, _stack = self._place(entry)

        def read(row: int, shape: tuple[int, ...]) -> torch.Tensor:
            offsets = (*index, row, *(0 for _ in shape[1:]))
            return self.reader.read(key, offsets, (*(1 for _ in index), *shape)).reshape(shape)

        if entry.kind is Kind.QKV:
            return layout.to_hf(entry, read(0, entry.shape), self.architecture)
        return [read(row, shape) for row, shape in zip(layout.first_rows(entry), entry.shapes, strict=True)]

    def _place(self, entry: Entry) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """Key, index and stacked axes. Layers and experts are stacked, or, in newer forms, have keys of their own."""
        for key, depth in ((entry.key, 0), (entry.layer_key, 1), (entry.name, len(entry.index))):
            if key in self.reader.tensors:
                return key, entry.index[depth:], entry.stack[depth:]
        raise CheckpointError(f"{entry.key} is missing")

    def _entry_problems(self, entry: Entry, key: str, index: tuple[int, ...], stack: tuple[int, ...]) -> Iterator[str]:
        stored = self.reader.tensors[key]
        rows = stored.shape[len(stack)] if len(stored.shape) > len(stack) else 0
        padded = entry.kind is Kind.VOCAB and rows >= entry.shape[0]
        expected = (*stack, rows, *entry.shape[1:]) if padded else (*stack, *entry.shape)
        if stored.shape != expected:
            if all(number == 0 for number in index):  # once for all layers
                yield f"{key} has shape {list(stored.shape)}, config.json says {list(expected)}"
            return
        if stored.dtype not in DTYPES.values():
            yield f"{key} has dtype {stored.dtype}, known are {sorted(map(str, DTYPES.values()))}"
        block = (*index, *(0 for _ in entry.shape)), (*(1 for _ in index), *entry.shape)
        held = stored.covered(*block)
        if held != math.prod(entry.shape):
            yield f"{key} at {list(index)}: {held} of {math.prod(entry.shape)} values are there"


def open_source(path: Path, model: Path | None = None) -> Source:
    """Open a checkpoint of any format: a Hugging Face folder, a Megatron folder, one of its iterations, a run's step.

    Raises:
        ModelError, CheckpointError: nothing of the kind, or unreadable.
    """
    if not path.is_dir():
        raise ModelError(f"{path} is no folder; give a Hugging Face folder or a Megatron checkpoint")
    iteration = find_iteration(path)
    return MegatronSource(iteration, model) if iteration else HfSource(path)


@contextmanager
def unless_removed(path: Path) -> Iterator[None]:
    """Within it, whatever fails because the checkpoint is removed while it is read says just that.

    Runs that go on remove old steps, whoever reads them.

    Raises:
        CheckpointError: in place of the error that the loss has led to.
    """
    was_there = path.is_dir()
    try:
        yield
    except (EgrcError, OSError) as error:
        if path.is_dir() or not was_there:
            raise
        raise CheckpointError(
            f"{path} was removed while it was read; of a run that goes on, give a step that stays: the best, the end "
            f"of a stage, or one of checkpoint.keep_every"
        ) from error


def find_iteration(path: Path) -> Path | None:
    """The folder with the shards of a Megatron checkpoint; None when `path` is no such checkpoint."""
    if (path / METADATA).is_file():
        return path
    if not (path / LATEST).is_file():
        return None
    try:
        text = read_line(path / LATEST)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / LATEST} cannot be read: {error}; restore it") from error
    is_number = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    name = text if text == "release" else f"iter_{int(text):07}" if is_number else None
    if name is None or not (path / name / METADATA).is_file():
        raise CheckpointError(
            f"{path / LATEST} says {text!r:.80}, there is no such iteration; restore it or correct the file"
        )
    return path / name


def check_source(source: Source, *, any_dtype: bool = False, more: Iterable[str] = ()) -> None:
    """Everything that speaks against reading a checkpoint, at once: damage, then names, shapes, dtypes, then `more`.

    Raises:
        CheckpointError: it is not what its manifest says.
        ModelError: anything else. Either has one line for each problem.
    """
    damaged = damages(source.path) if os.path.lexists(source.path / MANIFEST) else []
    damaged = [f"{damage}; restore it, or delete {MANIFEST} if the change is meant" for damage in damaged]
    # what is damaged would only be complained of a second time
    found = damaged or [*source.problems(any_dtype=any_dtype), *more]
    if found:
        rest = [f"and {len(found) - MAX_PROBLEMS} more problems"] if len(found) > MAX_PROBLEMS else []
        kind = CheckpointError if damaged else ModelError
        raise kind("\n".join(f"{source.path}: {problem}" for problem in [*found[:MAX_PROBLEMS], *rest]))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in shape, dtype and every bit: NaN equals itself, 0 does not equal -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(as_bits(a), as_bits(b)))


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits as integers of the same width."""
    return tensor.contiguous().view({4: torch.int32, 2: torch.int16}[tensor.element_size()])
