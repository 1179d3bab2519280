"""`state.json` of a step: everything that is not a tensor, with the version of its schema."""

import json
from pathlib import Path
from typing import Any

from egrc_mega.errors import CheckpointError
from egrc_mega.json_file import read_object

STATE = "state.json"
SCHEMA = "schema_version"
SCHEMA_VERSION = 1
"""Of what is written; a file without it is from before there was one, and is the same."""
IS_STAGE_END = "is_stage_end"
"""Key of the state: such a step is never pruned."""


def write_state(folder: Path, state: dict[str, Any], step: int, *, is_stage_end: bool) -> None:
    """Write the small state of a step."""
    content = {SCHEMA: SCHEMA_VERSION} | state | {"step": step, IS_STAGE_END: is_stage_end}
    (folder / STATE).write_text(json.dumps(content))


def read_state(path: Path) -> dict[str, Any]:
    """The small state of a step.

    Raises:
        CheckpointError: the file is missing, torn or of another version.
    """
    try:
        state = read_object(path / STATE)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / STATE}: {error}; give the folder of a committed step") from error
    version = state.pop(SCHEMA, SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path / STATE}: {SCHEMA} is {version!r:.40}, this program knows {SCHEMA_VERSION}; "
            f"resume with the program that wrote it"
        )
    return state
