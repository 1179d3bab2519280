"""One clock for the spans of all ranks: rank 0's."""

import time
from pathlib import Path

from egrc_mega.observe.spans import RECORDER
from egrc_mega.policy import distributed

ROUNDS = 8
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Processes that read the same here share the monotonic clock."""


def share_clock() -> None:
    """Have this rank's spans told by rank 0's clock. Collective.

    On rank 0's machine exactly. Elsewhere as well as a message is quick: the least that lies between rank 0's time in a
    message and the own time at its arrival is the difference of the clocks and the way of the quickest message.
    """
    boots = distributed.gather_texts(BOOT.read_text().strip() if BOOT.exists() else f"rank {distributed.rank()}")
    offset = float(distributed.on_rank_0(lambda: repr(RECORDER.wall_offset).encode()))
    rounds = 0 if len(set(boots)) == 1 else ROUNDS
    late = [-_time_of_rank_0() + RECORDER.wall_time(time.monotonic()) for _ in range(rounds)]
    if boots[distributed.rank()] == boots[0]:
        RECORDER.wall_offset = offset
    else:
        RECORDER.wall_offset -= min(late)


def _time_of_rank_0() -> float:
    return float(distributed.on_rank_0(lambda: repr(RECORDER.wall_time(time.monotonic())).encode()))
