"""What may go wrong between us and a server, by what has to be done about it."""

from egrc_mega.errors import RolloutError


class ServerLost(RolloutError):
    """The server is gone, silent, or talks nonsense: another one may do better."""


class ServerBusy(ServerLost):
    """The server has no room now; it may be asked again."""


class RequestRefused(RolloutError):
    """The server understood, and said no: so would every other."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class UnusableReply(ServerLost):
    """A reply that must not enter a batch."""
