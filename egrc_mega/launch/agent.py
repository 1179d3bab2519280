"""Runs torchrun in a process that its ranks know by number: `python -m egrc_mega.launch.agent` and its arguments.

What a rank has said of its own end is all that there is to say: torchrun's report of it, sixty lines with a traceback
of torchrun itself, would bury it. A rank that has ended without a word is told in one line, and so is one that was
killed, for what the others say then is a consequence.
"""

import logging
import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main as torchrun

from egrc_mega.launch import loopback
from egrc_mega.parent import LAUNCHER
from egrc_mega.relay import has_report

AT_ONCE_S = 5
"""Within so long of the first failure nobody was killed by torchrun, which asks the other ranks first, for 30 s."""

WRITTEN = "; what it wrote before stands above, if anything"


class _Unreported(logging.Filter):
    """Lets torchrun's lines pass as long as no rank has said why it ends."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.name.startswith("torch.distributed.elastic") and has_report())


def main() -> None:
    """Start the ranks of this node and wait for them; exits with 1 when one has failed."""
    os.environ[LAUNCHER] = str(os.getpid())
    loopback.register()
    for handler in torch_handlers():
        handler.addFilter(_Unreported())
    try:
        torchrun()
    except ChildFailedError as error:
        if said := last_words(error, has_report=has_report()):
            print(f"egrc: error: {said}", file=sys.stderr, flush=True)
        sys.exit(1)


def torch_handlers() -> set[logging.Handler]:
    """Whatever writes the log lines of torch and its parts."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return {handler for logger in loggers if logger.name.startswith("torch") for handler in logger.handlers}


def last_words(error: ChildFailedError, *, has_report: bool) -> str | None:
    """What is known of the rank that was killed, or, where none has said why it ends, of the first that has failed."""
    first, failure = error.get_first_failure()
    for rank, each in error.failures.items():
        if _was_killed(each) and each.timestamp <= failure.timestamp + AT_ONCE_S:
            return f"{_name(rank, each)} was killed by {each.signal_name()}{WRITTEN}"
    return None if has_report else f"{_name(first, failure)} ended with exit code {failure.exitcode}{WRITTEN}"


def _was_killed(failure: ProcessFailure) -> bool:
    """By a signal that torchrun does not send to those that it asks to end."""
    return failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM


def _name(rank: int, failure: ProcessFailure) -> str:
    return f"rank {rank} (process {failure.pid} of this node)"


if __name__ == "__main__":
    main()
