"""What can go wrong for a user, as exceptions.

Every message names the field or file, the value found and the remedy; the command line prints it as one line and
exits with the class's `exit_code`. Invariants of our own code use `assert` instead.
"""

import errno

from egrc_mega.plain_text import plain


class EgrcError(ValueError):
    """Base of every error a user can cause or mend."""

    exit_code = 1

    def __str__(self) -> str:
        """The message; what it quotes of models, servers and files acts on no terminal."""
        return plain(super().__str__())


class ConfigError(EgrcError):
    """A configuration that cannot run: unknown key, wrong type, contradiction."""

    exit_code = 2


class DataError(EgrcError):
    """A data set that cannot be used: missing file, too many malformed rows."""

    exit_code = 3


class ModelError(EgrcError):
    """A model folder that cannot be used: missing, wrong architecture, vocabulary that does not match."""

    exit_code = 4


class RolloutError(EgrcError):
    """A rollout server that does not start, dies, answers garbage or misses a deadline."""

    exit_code = 5


class GradingError(EgrcError):
    """The grading pool itself is broken (one expression that cannot be graded is a `Grade`, not an error)."""

    exit_code = 6


class RunError(EgrcError):
    """A run folder that cannot be used: held by another run, exists already, holds no checkpoint."""

    exit_code = 7


class CheckpointError(EgrcError):
    """A checkpoint that is torn, altered or of another model."""

    exit_code = 8


class PolicyError(EgrcError):
    """The update cannot go on: impossible layout, sample longer than the budget, log-prob mismatch, non-finite loss."""

    exit_code = 9


class MethodError(EgrcError):
    """A method whose answer cannot be trained on: wrong shape, not finite, an ungraded sample kept."""

    exit_code = 10


class StorageError(EgrcError):
    """Files that the operating system cannot read or write: a full disk, no permission, a folder in a file's place."""

    exit_code = 11


class HealthError(EgrcError):
    """A run that one of its alarms has ended (`health.stop`), after a checkpoint."""

    exit_code = 12


class HangError(EgrcError):
    """A run in which a rank has not moved for longer than it may."""

    exit_code = 13


class Stopped(EgrcError):
    """A run that was asked to stop and has saved where it is: no failure, and to be resumed (EX_TEMPFAIL)."""

    exit_code = 75


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
"""What a write says that knows its file only by number."""


def storage_error(error: OSError) -> StorageError:
    """What the operating system has said, in one line with its file."""
    place = f"{error.filename}: " if error.filename else ""
    other = f" (and {error.filename2})" if error.filename2 else ""
    reason = error.strerror or str(error) or type(error).__name__
    return StorageError(f"{place}{reason}{other}; see that the path is right, may be used, and its disk has room")


class RelayedError(EgrcError):
    """An error of another process, with that process's exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def has_waited_in_vain(error: BaseException | None) -> bool:
    """Whether a limit of time is behind an error: what it was raised from, and so on, ends in a `TimeoutError`."""
    while error is not None and not isinstance(error, TimeoutError):
        error = error.__cause__
    return error is not None
