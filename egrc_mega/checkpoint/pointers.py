"""Small files beside the steps that name one of them: `latest`, and others such as the best.

A pointer is a hint for people and tools. Resume looks at the steps themselves; retention keeps what a pointer names.
"""

import re
from contextlib import suppress
from pathlib import Path

from egrc_mega.json_file import read_line
from egrc_mega.manifest import sync

LATEST, BEST = "latest", "best"
STEP = re.compile(r"step_\d{6,}")


def step_name(step: int) -> str:
    """The name of a step's folder."""
    return f"step_{step:06d}"


def point(folder: Path, pointer: str, step: int) -> None:
    """Have a pointer name a step, at once and durably.

    Raises:
        OSError: it names what it has named before.
    """
    path = folder / pointer
    partial = path.with_name(f".{path.name}.tmp")
    try:
        partial.write_text(step_name(step))
        sync(partial)
        partial.replace(path)
    except OSError as error:
        error.filename = str(path)  # a write knows its file only by number
        with suppress(OSError):
            partial.unlink()
        raise
    sync(folder)


def pointed(folder: Path, pointer: str) -> str | None:
    """The name of the step that a pointer names; None where there is no such file, or it says something else."""
    try:
        name = read_line(folder / pointer)
    except (OSError, ValueError):
        return None
    return name if STEP.fullmatch(name) else None
