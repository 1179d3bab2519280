"""Time of a checkpoint on two ranks, hashing included, against writing and syncing the same bytes; synchronous, and in
the background, where only the part inside the step counts.

A state of 2 GiB: a model's weights with Adam's two moments, 16 bytes a parameter in all. The ways are measured in turn
in one run; ratios are medians of the rounds'.

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
from pathlib import Path
from statistics import median

import torch.distributed as dist

from egrc_mega.checkpoint.shards import NUM_FILES
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.manifest import damages
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
    times: dict[str, list[float]] = {"plain": [], "save": [], "in_step": [], "background": []}
    for number in range(1, rounds + 2):
        found = {
            "plain": _timed(lambda: _write_plainly(folder, state)),
            "save": _timed(lambda number=number: stores[False].save(number, state, {})),  # type: ignore[misc]
            "in_step": _timed(lambda number=number: stores[True].save(number, state, {})),  # type: ignore[misc]
            "background": _timed(stores[True].settle),
        }
        if number > 1:  # the first round warms up
            for name, seconds in found.items():
                times[name].append(seconds)
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
    own = folder / f"plain {dist.get_rank()}"
    own.mkdir()

    def write(number: int) -> None:
        with (own / str(number)).open("wb", buffering=0) as file:
            for tensor in tensors[number::NUM_FILES]:
                view = memoryview(tensor.numpy()).cast("B")
                while view:
                    view = view[file.write(view) :]
            os.fsync(file.fileno())

    with ThreadPoolExecutor(NUM_FILES) as pool:
        list(pool.map(write, range(NUM_FILES)))
    shutil.rmtree(own)


def _result(times: dict[str, list[float]], side: int) -> dict[str, object]:
    ratio = median(save / plain for save, plain in zip(times["save"], times["plain"], strict=True))
    share = median(step / save for step, save in zip(times["in_step"], times["save"], strict=True))
    return {
        "ranks": WORLD_SIZE,
        "bytes": WORLD_SIZE * NUM_TENSORS * side * side * 4,
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
        "seconds": times,
        "ratio_to_plain_writing": ratio,
        "share_in_step": share,
        "holds": {"ratio_to_plain_writing": ratio <= MAX_RATIO, "share_in_step": share <= MAX_SHARE_IN_STEP},
    }


if __name__ == "__main__":
    main()
