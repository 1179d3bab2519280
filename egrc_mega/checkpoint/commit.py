"""Rank 0's part of a save: a temporary folder becomes a step at once, when everything in it is on the disk."""

import json
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egrc_mega.checkpoint.pointers import LATEST, point, step_name
from egrc_mega.checkpoint.retention import Retention, prune, remove, unfinished
from egrc_mega.checkpoint.shards import Staged, Written
from egrc_mega.checkpoint.state_file import write_state
from egrc_mega.checkpoint.verification import BACKEND_FILE
from egrc_mega.convert.companions import copy_companions
from egrc_mega.convert.pickles import COMMON
from egrc_mega.convert.source import COMPANION_FOLDER
from egrc_mega.convert.torch_dist import BACKEND, write_metadata
from egrc_mega.errors import CheckpointError
from egrc_mega.faults import fault_point
from egrc_mega.manifest import FileEntry, sync, write_manifest

SPARE_BYTES = 2**20
"""For the small files beside the tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A step that is being written."""

    folder: Path
    """Of all steps."""
    step: int
    state: dict[str, Any]
    is_stage_end: bool
    companions: Path
    """The folder of what belongs to the model: with it the step can be exported without the model it started from."""

    @property
    def final(self) -> Path:
        """The step's folder once it is whole."""
        return self.folder / step_name(self.step)

    @property
    def partial(self) -> Path:
        """The step's folder until then."""
        return self.folder / f"{self.final.name}.tmp"


def begin(draft: Draft) -> None:
    """Make the temporary folder, and remove what a killed trainer has left."""
    draft.folder.mkdir(parents=True, exist_ok=True)
    for torn in unfinished(draft.folder):
        with suppress(OSError):  # NFS keeps what somebody has open; it goes another time
            remove(torn)
    draft.partial.mkdir()
    fault_point("checkpoint.begun", draft.step)


def require_room(draft: Draft, num_bytes: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        CheckpointError: saying how much is missing.
    """
    free = shutil.disk_usage(draft.folder).free
    if free < num_bytes + SPARE_BYTES:
        raise CheckpointError(f"No space left on device: {num_bytes:,} bytes are to be written, {free:,} are free")


def finish(draft: Draft, staged: Staged, written: list[Written]) -> None:
    """Describe what all ranks have written, give the folder its name and have `latest` point at it.

    Raises:
        OSError: nothing has changed but the temporary folder, or the step is whole and only the pointer is missing.
        CheckpointError: a rank writes to another disk.
    """
    fault_point("checkpoint.shards_written", draft.step)
    entries = describe(draft.partial, staged, written)
    write_state(draft.partial, draft.state, draft.step, is_stage_end=draft.is_stage_end)
    (draft.partial / COMPANION_FOLDER).mkdir()
    copy_companions(draft.companions, draft.partial / COMPANION_FOLDER)
    fault_point("checkpoint.state_written", draft.step)
    write_manifest(draft.partial, entries, durable=True)
    fault_point("checkpoint.before_rename", draft.step)
    replaced = _make_way(draft.final)
    draft.partial.rename(draft.final)
    sync(draft.folder)
    fault_point("checkpoint.after_rename", draft.step)
    if replaced:
        shutil.rmtree(replaced, ignore_errors=True)
    fault_point("checkpoint.before_pointer", draft.step)
    point(draft.folder, LATEST, draft.step)
    fault_point("checkpoint.after_pointer", draft.step)


def describe(folder: Path, staged: Staged, written: Iterable[Written]) -> dict[str, FileEntry]:
    """Write what megatron reads before the tensors; returns the manifest's entries of all ranks' files."""
    metadata = staged.metadata
    assert metadata is not None
    parts = list(written)
    metadata.storage_data = {result.index: result.storage_data for part in parts for result in part.results}
    entries = {name: entry for part in parts for name, entry in part.entries.items()}
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["size_bytes"]:
            raise CheckpointError(f"{name} is not what its rank has written; all hosts must share the disk of run.dir")
    (folder / COMMON).write_bytes(staged.common)
    write_metadata(folder, metadata)
    (folder / BACKEND_FILE).write_text(json.dumps(BACKEND))
    return entries


def clear(draft: Draft, retention: Retention) -> None:
    """Remove older steps that need not stay; one that cannot be removed is tried again at the next save."""
    try:
        prune(draft.folder, retention, draft.step)
    except OSError as error:
        print(f"an old checkpoint cannot be removed: {error}; it is tried again", flush=True)
    if excess := retention.excess(draft.folder):
        print(
            f"{draft.folder.parent} has {excess / 2**30:.2f} GiB more than checkpoint.disk_gib; no checkpoint may go: "
            f"raise it, or lower observe.rollouts_gib",
            flush=True,
        )
    fault_point("checkpoint.pruned", draft.step)


def discard(draft: Draft) -> None:
    """Free the disk of a step that could not be written."""
    with suppress(OSError):
        shutil.rmtree(draft.partial)


def _make_way(final: Path) -> Path | None:
    """Take away what has the step's name: a folder that a resume has passed over, to be removed when it is replaced.

    A file or a link was not made here. It stays under another name, and what a link leads to is not touched.
    """
    if final.is_dir() and not final.is_symlink():
        return final.rename(final.with_name(f"{final.name}.old.tmp"))
    if final.is_symlink() or final.exists():
        aside = final.rename(final.with_name(f"{final.name}.aside-{secrets.token_hex(4)}"))
        print(f"{final} was no step of this run; it is now {aside}", flush=True)
    return None
