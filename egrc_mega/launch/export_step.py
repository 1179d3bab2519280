"""`egrc export`: a committed step of a run as a Hugging Face folder; the best one where nothing else is said."""

from collections.abc import Callable
from pathlib import Path

from egrc_mega.checkpoint.pointers import BEST, LATEST, pointed, step_name
from egrc_mega.convert import conversion
from egrc_mega.convert.source import open_source, unless_removed
from egrc_mega.errors import RunError
from egrc_mega.observe.progress import byte_progress


def export_step(run_dir: Path, step: str, out: Path | None, note: Callable[[str], None]) -> Path:
    """Write the folder and return its path.

    Args:
        step: `best`, `latest` or a number. The run may go on meanwhile: its files are read, and none is written.
        out: must not exist; None: `export_step_N` in the run's folder.

    Raises:
        EgrcError: there is no such step, or no longer, or the folder cannot be written.
    """
    source = _folder_of(run_dir, step)
    target = out or run_dir / f"export_{source.name}"
    with unless_removed(source):
        _export(source, target, note)
    return target


def _export(source: Path, target: Path, note: Callable[[str], None]) -> None:
    opened = open_source(source)
    with byte_progress(conversion.total_bytes(opened, None), f"export of {source.name}") as advance:
        limit = conversion.parse_size("5GB")
        conversion.megatron_to_hf(opened, target, dtype=None, max_shard_bytes=limit, advance=advance, note=note)


def _folder_of(run_dir: Path, step: str) -> Path:
    folder = run_dir / "checkpoints"
    # before the list: a run that goes on has what it names then
    name = pointed(folder, step) if step in (BEST, LATEST) else step_name(int(step)) if step.isdecimal() else step
    known = sorted(path.name for path in folder.glob("step_*") if path.is_dir() and path.suffix != ".tmp")
    if not known:
        raise RunError(f"{run_dir} holds no checkpoints; give the folder of a run")
    if name is None:
        raise RunError(f"--step {step}: {run_dir} names none; set evaluation.best, or give one of {', '.join(known)}")
    if name not in known:
        raise RunError(f"--step {step}: {run_dir} has no {name}; there are {', '.join(known)}")
    return folder / name
