"""Brings versions to the servers, one after the other; in flight, behind what the trainer does next.

Rank 0 alone has one. The trainer needs its weights no longer once a version is staged, and so may move them while the
servers still load it, a version behind. At most one version is on its way.
"""

import threading
from concurrent.futures import Future, wait

import torch

from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.observe.spans import span
from egrc_mega.sync.transport import Transport

SYNC = "sync"
"""Name of the thread in which a version is delivered, and of its span, which says of which version."""
PATIENCE_S = 10.0
"""When the run ends early: the servers of others are not left paused if so long is enough."""


class Publisher:
    """Use from one thread.

    Args:
        in_flight: whether `publish` returns before the servers have the version.
    """

    def __init__(self, transport: Transport, *, in_flight: bool = False) -> None:
        self.transport, self.in_flight = transport, in_flight
        self._delivery: Future[None] | None = None
        """Of the newest version, if it was published in flight."""

    def publish(self, tensors: HfTensors, architecture: Architecture, dtype: torch.dtype, version: str) -> None:
        """Move every server to `version`; in flight only what must be done before the weights may change.

        Raises:
            RolloutError: a server did not take it, or, in flight, the version before it.
        """
        self.settle()
        if not self.in_flight:
            self.transport.publish(tensors, architecture, dtype, version)
            return
        deliver = self.transport.stage(tensors, architecture, dtype, version)
        delivery: Future[None] = Future()
        self._delivery = delivery

        def work() -> None:
            try:
                with span(SYNC, version=version):
                    deliver()
                delivery.set_result(None)
            except BaseException as error:
                delivery.set_exception(error)

        # a daemon: when the run ends early nobody waits for it for long
        threading.Thread(target=work, name=SYNC, daemon=True).start()

    def settle(self) -> None:
        """Wait until every server has the newest version.

        Raises:
            RolloutError: one did not take it.
        """
        if self._delivery is not None:
            # every load, restart and comparison has its deadline
            self._delivery.result()

    def check(self) -> None:
        """`settle` without waiting: raise what has failed already."""
        if self._delivery is not None and self._delivery.done():
            self._delivery.result()

    def close(self) -> None:
        """Give a version that is on its way a little time; how it ends is nobody's business any more."""
        if self._delivery is not None:
            wait([self._delivery], PATIENCE_S)
