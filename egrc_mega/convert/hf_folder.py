"""Reads and writes Hugging Face model folders: safetensors by mmap, and the small files that travel along."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from egrc_mega.errors import ModelError

INDEX = "model.safetensors.index.json"
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
)


class HfReader:
    """The tensors of a model folder by name, read lazily.

    Raises:
        ModelError: no safetensors, a torn file, an index that points outside the folder, a name that is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of = {name: path for path in self._shards() for name in set(self._open(path).keys())}

    def names(self) -> set[str]:
        """Every tensor's name."""
        return set(self._file_of)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, in its own dtype."""
        if name not in self._file_of:
            raise ModelError(f"{self.folder}: tensor {name} is missing")
        return self._open(self._file_of[name]).get_tensor(name)

    def _shards(self) -> list[Path]:
        index = self.folder / INDEX
        if not index.exists():
            single = self.folder / "model.safetensors"
            if not single.exists():
                raise ModelError(f"model.path: {self.folder} holds no safetensors; convert the weights first")
            return [single]
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        outside = [file for file in files if Path(file).name != file]
        if outside:
            raise ModelError(f"{index}: {outside[0]} points outside the folder")
        return [self.folder / file for file in files]

    def _open(self, path: Path) -> safe_open:
        try:
            return safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: not a whole safetensors file: {error}") from error


def write_weights(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None) -> None:
    """Write `model.safetensors` into an existing folder; `dtype` None keeps each tensor's own."""
    by_name = {name: tensor.to("cpu", dtype or tensor.dtype).contiguous() for name, tensor in tensors}
    save_file(by_name, folder / "model.safetensors", metadata={"format": "pt"})


def write_folder(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor]], *, source: Path, dtype: torch.dtype | None
) -> None:
    """Write a whole model folder: the weights, and the source's config, tokenizer and license.

    The folder appears under its name only when it is complete; an earlier one of that name is replaced.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in COMPANIONS:
        if (source / name).exists():
            shutil.copyfile(source / name, partial / name)
    write_weights(partial, tensors, dtype)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
