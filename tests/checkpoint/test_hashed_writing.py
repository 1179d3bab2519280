"""Files that are hashed while the disk takes them: they hold nothing but what was hashed, whatever the disk is like."""

import errno
import fcntl
import hashlib
import os
import random
from io import FileIO
from pathlib import Path

import pytest
import torch

from egrc_mega import direct_io, manifest
from egrc_mega.convert.archive import save_value
from egrc_mega.direct_io import BLOCK_BYTES, aligned_buffer, append
from egrc_mega.manifest import HashedWriter

BUFFER_BYTES = 4 * BLOCK_BYTES


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "BUFFER_BYTES", BUFFER_BYTES)


class Disk(FileIO):
    """Notes how each block is written; may refuse, or take less than it is given."""

    def __init__(self, path: Path, *, refuses: int = 0, takes: int | None = None) -> None:
        super().__init__(path, "w")
        self.refuses, self.takes = refuses, takes
        self.written: list[tuple[int, bool]] = []

    def write(self, view: memoryview) -> int:  # type: ignore[override]
        is_direct = bool(fcntl.fcntl(self, fcntl.F_GETFL) & direct_io.O_DIRECT)
        if is_direct and self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        takes, self.takes = self.takes, None
        count = super().write(view if is_direct or takes is None else view[:takes])
        self.written.append((count, is_direct))
        return count


def block(num_bytes: int) -> memoryview:
    view = aligned_buffer(num_bytes)
    view[:] = random.Random(num_bytes).randbytes(num_bytes)
    return view


@pytest.mark.parametrize("durable", [False, True])
def test_files_of_every_size_hold_what_was_hashed(tmp_path: Path, durable: bool) -> None:
    data = block(2 * BUFFER_BYTES + BLOCK_BYTES)
    for size in (0, 1, BLOCK_BYTES, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, len(data)):
        path, parts = tmp_path / f"{size}", [size // 3, size // 3, size - 2 * (size // 3)]
        with HashedWriter(path, durable=durable) as writer:
            for number, length in enumerate(parts):
                assert writer.write(data[writer.size_bytes : writer.size_bytes + length]) == length
                writer.mark(str(number))
            entry = writer.finish()
        assert path.read_bytes() == data[:size]
        ends = [sum(parts[: number + 1]) for number in range(3)]
        sums = [hashlib.sha256(data[:end]).hexdigest() for end in ends]
        assert (entry["size_bytes"], entry["sha256"]) == (size, sums[-1])
        assert entry["marks"] == {str(n): (end, sums[n][:16]) for n, end in enumerate(ends)}


def test_data_that_changes_once_it_is_handed_over_changes_nothing(tmp_path: Path) -> None:
    data, path = bytearray(block(BUFFER_BYTES + 5)), tmp_path / "file"
    before = bytes(data)
    with HashedWriter(path, durable=True) as writer:
        writer.write(data)
        data[:] = bytes(len(data))
        entry = writer.finish()
    assert path.read_bytes() == before and entry["sha256"] == hashlib.sha256(before).hexdigest()


def test_an_error_of_the_second_thread_is_the_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HashedWriter, "_write_all", refuse)
    with HashedWriter(tmp_path / "file", durable=True) as writer:
        writer.write(block(BUFFER_BYTES))
        with pytest.raises(OSError, match="No space left"):
            writer.finish()
    with HashedWriter(tmp_path / "tensor", durable=True) as writer, pytest.raises(OSError, match="No space left"):
        save_value(torch.zeros(3 * BUFFER_BYTES, dtype=torch.uint8), writer)


def test_files_that_the_disk_must_have_go_past_the_page_cache_and_others_stay_there_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(manifest, "append", lambda _file, _view, *, direct: seen.append(direct))
    for durable in (False, True):
        with HashedWriter(tmp_path / str(durable), durable=durable) as writer:
            writer.write(bytes(BUFFER_BYTES + 1))
            writer.finish()
    assert seen == [False, False, True, True]


def test_whole_blocks_go_past_the_page_cache_and_the_rest_does_not(tmp_path: Path) -> None:
    with Disk(tmp_path / "file") as file:
        can_be = direct_io._set_direct(file, True) and not direct_io._set_direct(file, False)
        append(file, block(2 * BLOCK_BYTES), direct=True)
        append(file, block(2 * BLOCK_BYTES), direct=False)
        append(file, block(7), direct=True)
    assert file.written == [(2 * BLOCK_BYTES, can_be), (2 * BLOCK_BYTES, False), (7, False)]


@pytest.mark.parametrize("way", ["no switch", "no direct write", "half a block"])
def test_a_file_system_that_takes_no_direct_writes_gets_the_same_bytes(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = block(4 * BLOCK_BYTES)
    if way == "no switch":  # as where the operating system has no such thing
        monkeypatch.setattr(direct_io, "O_DIRECT", 0)
    with Disk(tmp_path / "file", refuses=errno.EINVAL if way == "no direct write" else 0, takes=100) as file:
        if way == "half a block":
            file.write(data[:BLOCK_BYTES])  # leaves the end at a place where direct writing is refused
            append(file, data[100 : 100 + BLOCK_BYTES], direct=True)
            append(file, data[100 + BLOCK_BYTES :], direct=True)
        else:
            append(file, data, direct=True)
    assert (tmp_path / "file").read_bytes() == data
    assert not any(is_direct for _count, is_direct in file.written)


def test_other_refusals_of_a_direct_write_are_told(tmp_path: Path) -> None:
    with Disk(tmp_path / "file", refuses=errno.EIO) as file:
        if not direct_io._set_direct(file, True):
            pytest.skip("this file system takes no direct writes")
        with pytest.raises(OSError, match="Input/output error"):
            append(file, block(BLOCK_BYTES), direct=True)
        assert not fcntl.fcntl(file, fcntl.F_GETFL) & direct_io.O_DIRECT


def test_a_view_is_archived_without_a_copy_and_without_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.arange(4096, dtype=torch.bfloat16).reshape(64, 64)
    seen = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda value, file: (seen.append(value), save(value, file)))
    for number, part in enumerate((whole[3:5], whole[:, 3:5], whole[2, 7], whole[:0])):
        with HashedWriter(tmp_path / str(number), durable=False) as writer:
            save_value(part, writer)
            size = writer.finish()["size_bytes"]
        read = torch.load(tmp_path / str(number), weights_only=True)
        assert torch.equal(read, part) and read.dtype == part.dtype and read.shape == part.shape
        assert size < whole.nbytes
    assert seen[0].data_ptr() == whole[3:5].data_ptr()
