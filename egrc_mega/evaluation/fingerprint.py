"""The name of weights by their content: the same for a model folder and for the trainer that holds the same tensors."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from egrc_mega.convert.hf_folder import HfReader, HfTensors, to_bytes


def fingerprint(tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None = None) -> str:
    """SHA-256 over names, types, shapes and bytes, whatever the order of the tensors; one is held at a time.

    Args:
        dtype: in which the tensors are served; None: each in its own.
    """
    lines = []
    for name, tensor in tensors:
        served = dtype or tensor.dtype
        content = hashlib.sha256(to_bytes(tensor, served)).hexdigest()
        lines.append(f"{name} {served} {list(tensor.shape)} {content}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def fingerprint_of_folder(folder: Path) -> str:
    """Of a Hugging Face folder, read once.

    Raises:
        ModelError: see `HfReader`.
    """
    return fingerprint(_tensors(HfReader(folder)))


def _tensors(reader: HfReader) -> HfTensors:
    for name in sorted(reader.names()):
        yield name, reader.tensor(name)
