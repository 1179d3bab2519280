"""Conversion against copying, side by side in one run: a random bf16 Qwen2 checkpoint both ways, manifest included.

Each round copies the very bytes that the conversion reads with `cp` and waits for the disk (fsync), then converts them;
both start from a warm page cache and an idle disk. The source of megatron-to-hf has a manifest, so its time includes
checking it.

Usage: python benchmarks/convert.py [--gib 2] [--rounds 5] [--scratch FOLDER]
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch

from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf
from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.hf_folder import write_folder
from egrc_mega.convert.presets import PRESETS
from egrc_mega.manifest import sync

SHAPE = PRESETS["deepseek-r1-distill-qwen-1.5b"]


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        scratch = Path(name)
        _write_random_model(scratch / "hf", arguments.gib)
        hf_to_megatron(scratch / "hf", scratch / "megatron")
        result = {
            "gib": _num_bytes(scratch / "hf") / 2**30,
            "rounds": arguments.rounds,
            "hf_to_megatron": _measure(hf_to_megatron, scratch / "hf", scratch, arguments.rounds),
            "megatron_to_hf": _measure(megatron_to_hf, scratch / "megatron", scratch, arguments.rounds),
            "versions": {package: version(package) for package in ("torch", "safetensors")},
            "python": platform.python_version(),
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        }
    print(json.dumps(result, indent=1))


def _write_random_model(folder: Path, gib: float) -> None:
    """R1-Distill-Qwen-1.5B with as many layers as the size asks for; no manifest, like a download."""
    one, two = (architecture_of(HfConfig(SHAPE | {"num_hidden_layers": n})) for n in (1, 2))
    sizes = [sum(torch.Size(shape).numel() for _name, shape in a.hf_shapes()) for a in (one, two)]
    layers = max(1, round((gib * 2**29 - sizes[0]) / (sizes[1] - sizes[0])) + 1)
    source = folder.with_name("config")
    source.mkdir()
    (source / "config.json").write_text(json.dumps(SHAPE | {"num_hidden_layers": layers}))
    architecture = architecture_of(HfConfig.read(source))
    generator = torch.Generator().manual_seed(0)

    def random_tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in architecture.hf_shapes():
            yield name, torch.randn(shape, generator=generator).mul_(0.02).bfloat16()

    write_folder(folder, random_tensors(), architecture=architecture, source=source, dtype=torch.bfloat16)
    (folder / "manifest.sha256.json").unlink()


def _measure(convert: Callable[..., None], source: Path, scratch: Path, rounds: int) -> dict[str, object]:
    copies, conversions, extra = [], [], 0
    for _round in range(rounds + 1):
        copies.append(_timed(lambda: _copy(source, scratch / "copy"), scratch / "copy"))
        with PeakAnonymous() as memory:
            conversions.append(_timed(lambda: convert(source, scratch / "converted"), scratch / "converted"))
        extra = max(extra, memory.extra_kib)
    # the first round warms up
    copies, conversions = copies[1:], conversions[1:]
    return {
        "copy_s": copies,
        "convert_s": conversions,
        "convert_gb_per_s_median": _num_bytes(source) / 1e9 / median(conversions),
        "copy_gb_per_s_median": _num_bytes(source) / 1e9 / median(copies),
        "share_of_copy_rate": median(copies) / median(conversions),
        "peak_extra_anonymous_mib": extra / 1024,
    }


def _timed(work: Callable[[], object], product: Path) -> float:
    os.sync()
    started = time.monotonic()
    work()
    seconds = time.monotonic() - started
    shutil.rmtree(product)
    return seconds


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)
    for file in target.rglob("*"):
        sync(file)


def _num_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class PeakAnonymous:
    """Samples this process's anonymous memory (RssAnon); mapped files do not count."""

    def __enter__(self) -> "PeakAnonymous":
        self._before, self._done = self._now(), threading.Event()
        self.extra_kib = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.extra_kib = max(self.extra_kib, self._now() - self._before)

    @staticmethod
    def _now() -> int:
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("RssAnon")).split()[1])


if __name__ == "__main__":
    main()
