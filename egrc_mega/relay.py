"""Carries one error from a rank under torchrun to the command that started it: torchrun's own report would bury it."""

import json
import os
import sys
from pathlib import Path

from egrc_mega.errors import EgrcError, RelayedError

VARIABLE = "EGRC_ERROR_FILE"


def report_error(error: EgrcError) -> None:
    """Leave the error for the launcher; without one, print it."""
    file = os.environ.get(VARIABLE)
    if file:
        Path(file).write_text(json.dumps({"message": str(error), "exit_code": error.exit_code}))
        return
    for line in str(error).splitlines():
        print(f"egrc: error: {line}", file=sys.stderr)


def raise_reported(file: Path) -> None:
    """Raise what a rank has left, if any has.

    Raises:
        RelayedError: with the rank's message and exit code.
    """
    if file.exists():
        raise RelayedError(**json.loads(file.read_text()))
