"""Whether a step is what was committed: its manifest names every file, and every rank reads a part."""

import json
from collections.abc import Iterator
from pathlib import Path

from egrc_mega.checkpoint.agreement import Ranks
from egrc_mega.checkpoint.state_file import STATE, read_state
from egrc_mega.convert.pickles import COMMON, METADATA, shard_files
from egrc_mega.convert.source import COMPANION_FOLDER
from egrc_mega.errors import CheckpointError
from egrc_mega.manifest import MALFORMED, MANIFEST, VOUCHED, FileEntry, damaged_files, read_manifest

BACKEND_FILE = "metadata.json"
NEEDED = (STATE, METADATA, COMMON, BACKEND_FILE)
"""Without these no step is resumed."""

Share = dict[str, FileEntry]
"""A part of a manifest."""


def problem_of(path: Path, ranks: Ranks) -> str | None:
    """Why a step is not to be resumed, the same on every rank; None when it is whole. Collective."""
    shares, problem = ranks.on_rank_0(lambda: _outline(path, ranks.count), f"{path} cannot be looked at")
    if problem:
        return problem
    found = ranks.on_all(lambda: _damages(path, shares[ranks.rank]), f"{path} cannot be read")
    damaged = [damage for part in found for damage in part]
    return ranks.on_rank_0(lambda: damaged[0] if damaged else _contradiction(path), f"{path} cannot be read")


def _outline(path: Path, count: int) -> tuple[list[Share], str | None]:
    """The manifest in parts of nearly the same size, one for each rank; or what is wrong without reading the files."""
    if path.is_symlink():
        return [], f"it is a link to {path.readlink()}"
    if not path.is_dir():
        return [], "it is a file, not a folder"
    try:
        manifest = read_manifest(path)
        sizes = {name: int(entry["size_bytes"]) for name, entry in manifest.items()}
    except MALFORMED as error:
        return [], f"{MANIFEST} cannot be read ({error!r})"
    absent = [name for name in NEEDED if name not in manifest]
    unnamed = [name for name in sorted(_read_by_a_resume(path)) if name not in manifest]
    if absent or unnamed:
        return [], f"{[*unnamed, *absent][0]} is not in {MANIFEST}"
    shares: list[Share] = [{} for _ in range(count)]
    loads = [0] * count
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        least = loads.index(min(loads))
        shares[least][name] = manifest[name]
        loads[least] += sizes[name]
    return shares, None


def _damages(path: Path, share: Share) -> list[str]:
    """What is wrong with a rank's part of the files; one that the disk does not give is no reason to stop."""
    try:
        return damaged_files(path, share)
    except MALFORMED as error:
        return [f"a file cannot be read ({error})"]


def _read_by_a_resume(path: Path) -> Iterator[str]:
    """Names of files that are there and would be read: weights, descriptions, and what belongs to the model."""
    for pattern in (*VOUCHED, *NEEDED):
        yield from (file.name for file in path.glob(pattern))
    for file in (path / COMPANION_FOLDER).rglob("*"):
        if file.is_file() and not file.name.startswith(".nfs"):  # what NFS leaves of a removed file
            yield file.relative_to(path).as_posix()


def _contradiction(path: Path) -> str | None:
    """What is wrong although every file is as the manifest says."""
    try:
        read_state(path)
        json.loads((path / BACKEND_FILE).read_bytes())
        missing = shard_files(path) - read_manifest(path).keys()
    except CheckpointError as error:
        return str(error)
    except MALFORMED as error:
        return f"{BACKEND_FILE} cannot be read ({error!r})"
    return f"{METADATA} speaks of {min(missing)}, which {MANIFEST} does not" if missing else None
