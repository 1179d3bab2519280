"""Named fault points: no-ops unless the environment variable EGRC_FAULTS arms them, as a test does.

`EGRC_FAULTS="train.before_commit@7"` kills the process when that point is reached for step 7; a name without `@`
switches a behaviour on, e.g. `rollout.shuffle_requests`.
"""

import os
import signal


def armed(name: str) -> bool:
    """True when the behaviour `name` is switched on."""
    return name in os.environ.get("EGRC_FAULTS", "").split(",")


def fault_point(name: str, step: int) -> None:
    """SIGKILL this process if `name@step` is armed."""
    if armed(f"{name}@{step}"):
        os.kill(os.getpid(), signal.SIGKILL)
