"""An event loop whose time passes at once although other threads use it: it jumps when all of them wait.

Whether a thread waits is the kernel's word: a thread that has something to do is running or ready to run, however busy
the machine is. So what is measured in this time does not depend on the machine's load.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from egrc_mega.testing.virtual_time import VirtualLoop

TASKS = Path("/proc/self/task")
GRACE_S = 0.0002
"""Real time that a thread gets which has something to do before it is looked at again."""
IDLE_S = 0.05
"""Real time after which a loop that expects nothing looks again."""


class SharedVirtualLoop(VirtualLoop):
    """Time stands still while the loop or any other thread of the process has something to do."""

    def jump(self, select: Callable[[float], Any], timeout: float | None = None) -> Any:
        """As in the loop of one thread, once all others sleep."""
        if timeout is None or timeout <= 0:
            return select(IDLE_S if timeout is None else 0)
        before, patience_s = None, 0.0
        while True:
            # whoever waits for the interpreter's lock gets it meanwhile, and is awake from then on
            found = select(patience_s)
            if found:
                return found
            counts = _switches_of_sleepers()
            if counts is not None and counts == before:
                self.now += timeout
                return []
            before, patience_s = counts, GRACE_S if counts is None else 0.0


def _switches_of_sleepers() -> dict[str, str] | None:
    """How often each other thread has been switched to and from; None where one of them is not asleep."""
    own, found = str(threading.get_native_id()), {}
    for name in os.listdir(TASKS):
        if name == own:
            continue
        try:
            lines = (TASKS / name / "status").read_text().splitlines()
        except OSError:  # it has just ended
            return None
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        if facts["State"].strip()[0] != "S":
            return None
        found[name] = facts["voluntary_ctxt_switches"] + facts["nonvoluntary_ctxt_switches"]
    return found
