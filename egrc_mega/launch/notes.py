"""What a dry run sees on this machine that a run would need: it may be planned for others, so nothing is refused."""

import math
import shutil
from collections.abc import Iterator

from egrc_mega.config.config import Config
from egrc_mega.convert.family import Architecture
from egrc_mega.errors import ConfigError
from egrc_mega.rollout.start.sglang import find_python

GB = 10**9


def notes(config: Config, architecture: Architecture) -> Iterator[str]:
    """Lines about the disk and about the servers' environment."""
    yield from _disk_lines(config, architecture)
    if config.rollout.server == "sglang":
        try:
            find_python(config.rollout)
        except ConfigError as error:
            yield f"note     {error}"


def _disk_lines(config: Config, architecture: Architecture) -> Iterator[str]:
    """Free space where the run's folder is or will be, against what is kept there."""
    parameters = sum(math.prod(entry.shape) for entry in architecture.entries())
    weights, checkpoint = parameters * _bytes_of(config)[0], parameters * sum(_bytes_of(config))
    # one more than stay, for the next is written before the oldest goes; then the export, and the servers' weights
    kept = config.checkpoint.keep_last + 1 + len(config.stages)
    pending = config.evaluation.spare.max_pending if config.evaluation.spare else 0
    if config.evaluation.best:  # and those that may turn out to be it
        kept += 1 + pending
    needed = kept * checkpoint + (3 + pending) * weights
    place = next(folder for folder in (config.run.dir, *config.run.dir.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    yield (
        f"disk     {place}: {free / GB:.1f} GB free; a checkpoint takes {checkpoint / GB:.1f} GB, {kept} of them, the "
        f"export and the servers' weights {'and those that wait to be measured ' * bool(pending)}{needed / GB:.1f} GB"
    )
    if free < needed:
        yield (
            f"note     run.dir: that is {(needed - free) / GB:.1f} GB more than is free on this machine; make room, "
            f"choose another run.dir, or lower checkpoint.keep_last"
        )


def _bytes_of(config: Config) -> tuple[int, int]:
    """Of a parameter in a checkpoint: its weight, and its optimizer state (moments, and masters of bf16 weights)."""
    section = config.megatron
    moments = sum(4 if dtype == "fp32" else 2 for dtype in (section.exp_avg_dtype, section.exp_avg_sq_dtype))
    return (2, 4 + moments) if section.bf16 else (4, moments)
