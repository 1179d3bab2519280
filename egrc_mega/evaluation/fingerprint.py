"""The name of weights by their content: the same for a model folder and for the trainer that holds the same tensors."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from egrc_mega.convert.hf_folder import HfReader, HfTensors, to_bytes


class Fingerprint:
    """SHA-256 over names, types, shapes and bytes, whatever the order of the tensors; one is held at a time.

    Args:
        dtype: in which the tensors are served; None: each in its own.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self._dtype = dtype
        self._lines: list[str] = []

    def watch(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> HfTensors:
        """Pass tensors on to somebody else, and take them in."""
        for name, tensor in tensors:
            served = self._dtype or tensor.dtype
            content = hashlib.sha256(to_bytes(tensor, served)).hexdigest()
            self._lines.append(f"{name} {served} {list(tensor.shape)} {content}\n")
            yield name, tensor

    def hexdigest(self) -> str:
        """Of all tensors that have passed."""
        return hashlib.sha256("".join(sorted(self._lines)).encode()).hexdigest()


def fingerprint(tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None = None) -> str:
    """The fingerprint of tensors that nobody else wants; see `Fingerprint`."""
    found = Fingerprint(dtype)
    for _name, _tensor in found.watch(tensors):
        pass
    return found.hexdigest()


def fingerprint_of_folder(folder: Path) -> str:
    """Of a Hugging Face folder, read once.

    Raises:
        ModelError: see `HfReader`.
    """
    return fingerprint(_tensors(HfReader(folder)))


def _tensors(reader: HfReader) -> HfTensors:
    for name in sorted(reader.names()):
        yield name, reader.tensor(name)
