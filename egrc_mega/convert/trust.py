"""Which files of a folder are the folder's own: a model folder that was downloaded may link to anything."""

import os
import stat
from pathlib import Path


def file_problem(folder: Path, name: str) -> str | None:
    """Why an entry of a folder must not be read as one of its files; None: it is a regular file of the folder's own.

    Links may stay inside the folder, or lead to where Hugging Face's cache keeps what its snapshots consist of.
    """
    path, root = folder / name, folder.resolve()
    places = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    try:
        found = path.resolve(strict=True)
        mode = found.stat().st_mode
    except (OSError, RuntimeError) as error:
        if path.is_symlink():
            return f"a link to {os.readlink(path)}, which cannot be read; if the download is not whole, repeat it"
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if not any(found.is_relative_to(place) for place in places):
        return f"a link out of the folder, to {found}; put the file itself there, or take the link away"
    if not stat.S_ISREG(mode):
        return "no regular file; take it away"
    return None
