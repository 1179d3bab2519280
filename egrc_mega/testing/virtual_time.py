"""An event loop whose time passes at once: what sleeps wakes up in its turn, and no test depends on a clock."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything is to be done, and jumps to the next timer when nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        selector.select = partial(self.jump, selector.select)

    def jump(self, select: Callable[[float], Any], timeout: float | None = None) -> Any:
        """Let the time pass up to the next timer, `timeout` seconds from now; what `select` finds then."""
        self.now += timeout or 0.0
        return select(0)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.now


def run_in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in such a loop; nothing in it may wait for another thread or for the network."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
