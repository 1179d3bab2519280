"""`torch.save` of one value into a file that is hashed while it is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from egrc_mega.manifest import HashedWriter


@contextmanager
def without_checksums() -> Iterator[None]:
    """Archives have no CRC-32 meanwhile: it costs eleven times the writing, and the manifest's SHA-256 says more.

    torch has one setting for the whole process.
    """
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def save_value(value: Any, writer: HashedWriter) -> None:
    """Append the archive of a value, and of a tensor no more than what it shows.

    Raises:
        OSError: the file could not be written.
    """
    trimmed = _trimmed(value) if isinstance(value, torch.Tensor) else value
    try:
        torch.save(trimmed, writer)  # type: ignore[arg-type]
    except RuntimeError as error:
        # torch ends its archive whatever has happened, and complains that it is not where it thought to be
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _trimmed(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in a storage of their own, without a copy where they lie side by side in host memory."""
    if tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or not tensor.numel():
        return tensor.clone()
    flat = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return torch.frombuffer(flat, dtype=tensor.dtype).reshape(tensor.shape)
