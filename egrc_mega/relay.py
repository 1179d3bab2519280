"""Carries one error from a rank under torchrun to the command that started it: torchrun's own report would bury it."""

import contextlib
import json
import os
import sys
from pathlib import Path

from egrc_mega.errors import EgrcError, RelayedError, Stopped

VARIABLE = "EGRC_ERROR_FILE"


def report_error(error: EgrcError) -> None:
    """Leave the error for the launcher; without one, print it."""
    file = os.environ.get(VARIABLE)
    if file:
        _leave(error, Path(file))
        return
    for line in str(error).splitlines():
        print(f"egrc: {'' if error.exit_code == Stopped.exit_code else 'error: '}{line}", file=sys.stderr)


def report_relayed(error: RelayedError) -> None:
    """Leave what rank 0 has told this rank: on another node than rank 0's nobody knows more."""
    file = os.environ.get(VARIABLE)
    if file:
        _leave(error, _relayed(Path(file)))


def raise_reported(file: Path) -> None:
    """Raise what a rank has left, if any has; first the one that knows the cause.

    Raises:
        RelayedError: with the rank's message and exit code.
    """
    for found in (file, _relayed(file)):
        if found.exists():
            raise RelayedError(**json.loads(found.read_text()))


def has_report() -> bool:
    """Whether a rank of this node has left an error, or what rank 0 has told it of one, for the launcher."""
    file = os.environ.get(VARIABLE)
    return file is not None and any(found.exists() for found in (Path(file), _relayed(Path(file))))


def _leave(error: EgrcError, file: Path) -> None:
    """Whole or not at all, and the first alone: what other ranks leave after it is what they have suffered by it."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(json.dumps({"message": str(error), "exit_code": error.exit_code}))
    with contextlib.suppress(FileExistsError):
        os.link(partial, file)
    partial.unlink()


def _relayed(file: Path) -> Path:
    return file.with_name(f"{file.name}.relayed")
