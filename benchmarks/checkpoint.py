"""Time of a checkpoint on two ranks, hashing included, against writing and syncing the same bytes; synchronous, and in
the background, where only the part inside the step counts.

A state of 2 GiB: a model's weights with Adam's two moments, 16 bytes a parameter in all. The ways are measured in turn
in one run; ratios are medians of the rounds'. Beside them what no save can do without, by both ranks at once: as many
bytes past the page cache, unhashed; the SHA-256 alone; the copy alone, into memory that is there.

Usage: python benchmarks/checkpoint.py [--rounds 3] [--mib 2048] [--folder DIR]
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from statistics import median

import torch.distributed as dist

from egrc_mega.checkpoint.host_copy import HostCopy
from egrc_mega.checkpoint.shards import NUM_FILES
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.direct_io import aligned_buffer, append
from egrc_mega.manifest import BUFFER_BYTES, damages
from egrc_mega.policy import distributed
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.testing.checkpoint_worker import TensorState
from egrc_mega.testing.gloo import HANG_LIMIT_S, run_on_gloo

WORLD_SIZE, NUM_TENSORS = 2, 32
MAX_RATIO, MAX_SHARE_IN_STEP = 1.3, 0.1


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run_on_gloo(_measure, WORLD_SIZE, Path(folder), arguments.mib * 2**20, arguments.rounds)
        print((Path(folder) / "result.json").read_text())


def _measure(folder: Path, num_bytes: int, rounds: int) -> None:
    distributed.initialize(MegatronSection(), timeout_s=HANG_LIMIT_S)
    side = max(1, round((num_bytes / WORLD_SIZE / NUM_TENSORS / 4) ** 0.5))
    companions = folder / "companions"
    companions.mkdir(exist_ok=True)
    state = TensorState(companions, NUM_TENSORS, side)
    stores = {
        asynchronous: CheckpointStore(folder / str(asynchronous), keep=1, asynchronous=asynchronous)
        for asynchronous in (False, True)
    }
    room = HostCopy()
    times: dict[str, list[float]] = {}
    for number in range(1, rounds + 2):
        found = {
            "plain": _timed(lambda: _write_plainly(folder, state)),
            "past_cache": _timed(lambda: _write_past_the_cache(folder, state)),
            "sha256": _timed(state.digest),
            "copy": _timed(lambda: room.copies(list(state.tensors.values()))),
            "save": _timed(lambda number=number: stores[False].save(number, state, {})),  # type: ignore[misc]
            "in_step": _timed(lambda number=number: stores[True].save(number, state, {})),  # type: ignore[misc]
            "background": _timed(stores[True].settle),
        }
        if number > 1:  # the first round warms up
            for name, seconds in found.items():
                times.setdefault(name, []).append(seconds)
    if distributed.is_rank_0():
        assert damages(folder / "False" / f"step_{rounds + 1:06d}") == []
        (folder / "result.json").write_text(json.dumps(_result(times, side), indent=1))
    distributed.finalize()


def _timed(do: Callable[[], object]) -> float:
    """Seconds until the slower rank is through."""
    dist.barrier()
    started = time.perf_counter()
    do()
    dist.barrier()
    return time.perf_counter() - started


def _write_plainly(folder: Path, state: TensorState) -> None:
    """The same bytes in as many files, by as many threads, synced and removed."""
    tensors = list(state.tensors.values())

    def write(number: int, file: FileIO) -> None:
        for tensor in tensors[number::NUM_FILES]:
            append(file, tensor.numpy().data.cast("B"), direct=False)

    _write_files(folder, write)


def _write_past_the_cache(folder: Path, state: TensorState) -> None:
    """As many bytes, from one buffer."""
    buffer = aligned_buffer(BUFFER_BYTES)
    num_buffers = sum(tensor.nbytes for tensor in state.tensors.values()) // NUM_FILES // BUFFER_BYTES

    def write(_number: int, file: FileIO) -> None:
        for _ in range(num_buffers):
            append(file, buffer, direct=True)

    _write_files(folder, write)


def _write_files(folder: Path, write: Callable[[int, FileIO], None]) -> None:
    own = folder / f"plain {dist.get_rank()}"
    own.mkdir()

    def write_and_sync(number: int) -> None:
        with (own / str(number)).open("wb", buffering=0) as file:
            write(number, file)
            os.fsync(file.fileno())

    with ThreadPoolExecutor(NUM_FILES) as pool:
        list(pool.map(write_and_sync, range(NUM_FILES)))
    shutil.rmtree(own)


def _result(times: dict[str, list[float]], side: int) -> dict[str, object]:
    def ratio_of(one: str, other: str) -> float:
        return median(a / b for a, b in zip(times[one], times[other], strict=True))

    ratio = ratio_of("save", "plain")
    share = median(a / (a + b) for a, b in zip(times["in_step"], times["background"], strict=True))
    return {
        "ranks": WORLD_SIZE,
        "bytes": WORLD_SIZE * NUM_TENSORS * side * side * 4,
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
        "seconds": times,
        "ratio_to_plain_writing": ratio,
        "share_in_step": share,
        "in_step_to_save": ratio_of("in_step", "save"),
        "ratio_to_writing_past_the_cache": ratio_of("save", "past_cache"),
        "ratio_to_sha256": ratio_of("save", "sha256"),
        "share_of_the_copy_alone": ratio_of("copy", "save"),
        "holds": {"ratio_to_plain_writing": ratio <= MAX_RATIO, "share_in_step": share <= MAX_SHARE_IN_STEP},
    }


if __name__ == "__main__":
    main()
