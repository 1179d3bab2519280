"""Written folders vouch for themselves: sizes and SHA-256 sums of every file, and where in a file damage begins.

A file of tensors is hashed while it is written. At the end of each tensor the hash so far is noted, so that a flipped
byte is traced to its tensor in one pass over the file, and the last sum is the file's own, as `sha256sum` prints it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from egrc_mega.direct_io import aligned_buffer, append
from egrc_mega.json_file import read_object

MANIFEST = "manifest.sha256.json"
VOUCHED = ("*.safetensors", "*.safetensors.index.json", "*.distcp", ".metadata", "common.pt")
"""The files of weights: whatever of them is there must stand in the manifest."""
MALFORMED = (OSError, ValueError, LookupError, TypeError, AttributeError)
"""What a manifest that is none ends in."""
BLOCK_BYTES = 16 * 2**20
BUFFER_BYTES = 4 * 2**20
"""A file that is written has two of them: one is filled and hashed while the other goes to the disk."""

FileEntry = dict[str, Any]
"""`size_bytes`, `sha256` and, for a file of tensors, `marks`: name -> [end in bytes, start of the hash up to there]."""


class HashedWriter:
    """A new file that is hashed in this thread while a second one writes it. Has what `torch.save` needs.

    Everything goes through one of two buffers: what is hashed is what is written, whoever changes the data meanwhile.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        """Create the file, which must not exist.

        Args:
            durable: `finish` waits until the disk has the file; nobody is expected to read it soon.
        """
        self._file = path.open("xb", buffering=0)
        self._durable = durable
        self._hash = hashlib.sha256()
        self._marks: dict[str, tuple[int, str]] = {}
        self._buffer, self._spare = aligned_buffer(BUFFER_BYTES), aligned_buffer(BUFFER_BYTES)
        self._filled = 0
        self._disk = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        """Append bytes, or anything with a buffer of them; returns their number.

        Raises:
            OSError: what was appended before could not be written.
        """
        view = memoryview(data).cast("B")
        begin = 0
        while begin < len(view):
            part = view[begin : begin + BUFFER_BYTES - self._filled]
            place = self._buffer[self._filled : self._filled + len(part)]
            # unlike an assignment it lets other threads run meanwhile
            np.copyto(np.frombuffer(place, np.uint8), np.frombuffer(part, np.uint8))
            self._hash.update(place)
            self._filled += len(part)
            begin += len(part)
            if self._filled == BUFFER_BYTES:
                self._settle()
                self._writing = self._disk.submit(self._write_all, self._buffer)
                self._buffer, self._spare, self._filled = self._spare, self._buffer, 0
        self.size_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """`torch.save` asks; what is held back is written by `finish`."""

    def mark(self, name: str) -> None:
        """What was written since the last mark is called `name`."""
        self._marks[name] = (self.size_bytes, self._hash.copy().hexdigest()[:16])

    def finish(self) -> FileEntry:
        """Write the rest, close the file and return its entry; raises OSError as `write`."""
        self._settle()
        self._write_all(self._buffer[: self._filled])
        if self._durable:
            os.fsync(self._file.fileno())
        self._file.close()
        return {"size_bytes": self.size_bytes, "sha256": self._hash.hexdigest(), "marks": self._marks}

    def _settle(self) -> None:
        """Wait for the buffer that is being written."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def _write_all(self, view: memoryview) -> None:
        append(self._file, view, direct=self._durable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._disk.shutdown()
        self._file.close()


def write_manifest(folder: Path, entries: Mapping[str, FileEntry], *, durable: bool) -> None:
    """Write the manifest of a folder and everything below it; files without an entry are hashed now."""
    manifest = dict(entries)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in entries:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            manifest[name] = {"size_bytes": path.stat().st_size, "sha256": digest}
            if durable:
                sync(path)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    if durable:
        for path in (folder / MANIFEST, *(path for path in folder.rglob("*") if path.is_dir()), folder):
            sync(path)


def damages(folder: Path) -> list[str]:
    """What differs from the folder's manifest, one line a file; files are read side by side.

    A file of weights that the manifest does not name is a damage, too: nobody vouches for it.
    """
    try:
        manifest = read_manifest(folder)
        damaged = damaged_files(folder, manifest)
    except MALFORMED as error:
        return [f"{MANIFEST} cannot be read ({error!r})"]
    weights = sorted({path.name for pattern in VOUCHED for path in folder.glob(pattern)} - manifest.keys())
    return damaged + [f"{name} is not in {MANIFEST}" for name in weights]


def damaged_files(folder: Path, entries: Mapping[str, FileEntry]) -> list[str]:
    """What differs from a manifest's entries, one line a file; raises one of `MALFORMED`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda name: _damage(folder / name, name, entries[name]), entries)
        return [damage for damage in found if damage]


def is_complete(folder: Path) -> bool:
    """True when every file of the folder's manifest is there at its size. Reads no content: see `damages`."""
    try:
        manifest = read_manifest(folder)
        return all((folder / name).stat().st_size == entry["size_bytes"] for name, entry in manifest.items())
    except MALFORMED:
        return False


def read_manifest(folder: Path) -> dict[str, Any]:
    """The entries of a folder's manifest, by the names of its files; raises one of `MALFORMED`."""
    manifest = read_object(folder / MANIFEST)
    if not manifest:
        raise ValueError("it names no file")
    if outside := [name for name in manifest if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"it names {outside[0]}, outside the folder")
    return manifest


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damage(path: Path, name: str, expected: FileEntry) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != expected["size_bytes"]:
        return f"{name} has {size} bytes, the manifest says {expected['size_bytes']}"
    digest, position = hashlib.sha256(), 0
    buffer = bytearray(min(BLOCK_BYTES, size))
    with path.open("rb", buffering=0) as file:
        for mark, (end, prefix) in (expected.get("marks", {}) | {"the rest": (size, "")}).items():
            while position < end:
                read = file.readinto(memoryview(buffer)[: end - position])
                if not read:
                    return f"{name} ends at {position} while it is read"
                digest.update(memoryview(buffer)[:read])
                position += read
            if not digest.hexdigest().startswith(prefix):
                return f"{name} differs from the manifest in {mark}"
    return None if digest.hexdigest() == expected["sha256"] else f"{name} differs from the manifest"
