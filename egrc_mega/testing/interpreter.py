"""Stands for Python in scripts that tests run: `ADDRESS ARGUMENT ...` forks what a nursery can, and runs the rest."""

import os
import signal
import sys
from functools import partial

from egrc_mega.parent import die_with_parent
from egrc_mega.testing import forked


def main() -> int:
    """The exit code of what was run; signals are passed on to it."""
    forked.use_nursery(sys.argv[1])
    command = [sys.executable, *sys.argv[2:]]
    process = forked.popen(command, preexec_fn=partial(die_with_parent, os.getpid()))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: process.send_signal(number))
    code = process.wait()
    return int(code) if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
