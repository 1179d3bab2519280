"""Where the ranks of one machine meet: in a store on loopback, of which nothing is unpickled.

Where torchrun makes the store by itself (`--standalone`), it listens on every address of the machine, and torchrun
unpickles what anybody has put into it: code of any machine would be run (torch 2.13,
elastic/rendezvous/dynamic_rendezvous.py).
"""

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from egrc_mega.sync.group import open_store

LOOPBACK = "127.0.0.1"
ON_LOOPBACK = "egrc-loopback"
"""What torchrun is told as `--rdzv-backend`."""


class LoopbackRendezvous(RendezvousHandler):
    """Of one machine's ranks: there is nobody to wait for. Nothing that stands in the store is unpickled."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id
        self._store: TCPStore | None = None

    def get_backend(self) -> str:
        """How torchrun calls it."""
        return ON_LOOPBACK

    @property
    def use_agent_store(self) -> bool:
        """The ranks meet in this process's store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """One node of one."""
        self._store = self._store or open_store(LOOPBACK)
        place = RendezvousStoreInfo(LOOPBACK, self._store.port)
        return RendezvousInfo(PrefixStore("agent", self._store), 0, 1, place)

    def is_closed(self) -> bool:
        """There is nobody who would close it."""
        return False

    def set_closed(self) -> None:
        """There is nobody to tell."""

    def num_nodes_waiting(self) -> int:
        """No other node may come."""
        return 0

    def get_run_id(self) -> str:
        """What torchrun was given."""
        return self._run_id

    def shutdown(self) -> bool:
        """The store ends with this process."""
        return True


def register() -> None:
    """Let torchrun know the meeting by its name."""
    rendezvous_handler_registry.register(ON_LOOPBACK, LoopbackRendezvous)
