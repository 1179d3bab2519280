"""SIGTERM as a wish: the step under way is finished, or given up once its grace time is over.

Cluster managers send SIGTERM some seconds before they kill. Only rank 0 answers it, at points where every rank can
follow; the others let the first one pass. A second SIGTERM ends the process at once, as without all this. SIGHUP, of a
terminal that closes, is the same wish to who has begun the run.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from egrc_mega.errors import Stopped


class StopSignal:
    """Listens for SIGTERM. Use as a context manager, in the main thread; leaving it puts back who listened before.

    Args:
        grace_s: how long a step may go on after the signal, in seconds, before what can be given up is given up.
        answers: whether this process decides (rank 0).
    """

    def __init__(self, grace_s: float, *, answers: bool) -> None:
        self.grace_s, self.answers = grace_s, answers
        self.wanted = False
        """Whether somebody has asked this process to stop."""
        self._is_overdue = False
        self._can_give_up = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._ask)}
        if self.answers:
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._run_out)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def may_give_up(self) -> Iterator[None]:
        """Within it a stop that is overdue raises.

        Raises:
            Stopped: the grace time is over; also on entry.
        """
        self._can_give_up = True
        try:
            self._give_up_if_overdue()
            yield
        finally:
            self._can_give_up = False

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.wanted:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.wanted = True
        if self.answers:
            # zero would switch the timer off
            signal.setitimer(signal.ITIMER_REAL, max(self.grace_s, 1e-3))

    def _run_out(self, _number: int, _frame: FrameType | None) -> None:
        self._is_overdue = True
        self._give_up_if_overdue()

    def _give_up_if_overdue(self) -> None:
        if self._is_overdue and self._can_give_up:
            raise Stopped(f"the step was given up {self.grace_s:g} s after SIGTERM")


def take_hangup_for_sigterm() -> None:
    """From here on the first SIGHUP is a SIGTERM to this process, and no SIGHUP anything to what it starts.

    A terminal that closes tells the whole family. A blocked signal stays blocked in children: ranks, servers and
    graders go on until the step is done. Where SIGHUP is ignored (`nohup`), or blocked by who has started this, nothing
    changes. To be called before there are other threads.
    """
    is_blocked = signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if is_blocked or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    threading.Thread(target=_wait_for_hangup, args=(threading.get_ident(),), daemon=True).start()


def _wait_for_hangup(main_thread: int) -> None:
    signal.sigwait({signal.SIGHUP})
    signal.pthread_kill(main_thread, signal.SIGTERM)  # to that thread, which may wait within a call
