"""How often servers may be started again: a rate, for a run that lasts weeks loses servers in its due course."""

import time
from collections.abc import Callable, Sequence

BACKOFF_S = 0.5
"""Before the first restart of a window; doubled for each that follows."""
LONGEST_BACKOFF_S = 30.0


class RestartBudget:
    """At most `most` restarts within any `window_s` seconds, over all servers of a fleet."""

    def __init__(self, most: int, window_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.most, self.window_s, self.now = most, window_s, now
        self._taken: list[float] = []
        """When the restarts of the last window were."""

    def take(self) -> bool:
        """Use one restart; False when there is none left now."""
        now = self.now()
        self._taken = [then for then in self._taken if now - then < self.window_s]
        if len(self._taken) >= self.most:
            return False
        self._taken.append(now)
        return True

    def ages(self) -> tuple[float, ...]:
        """Seconds since each restart of the last window, the oldest first."""
        now = self.now()
        return tuple(round(now - then, 3) for then in self._taken if now - then < self.window_s)

    def recall(self, ages: Sequence[float]) -> None:
        """Count these, which `ages` has told of an earlier process, as taken."""
        now = self.now()
        self._taken = [now - age for age in ages]

    def backoff_s(self) -> float:
        """Seconds to wait before the restart that was taken last."""
        return min(BACKOFF_S * 2.0 ** (len(self._taken) - 1), LONGEST_BACKOFF_S)

    def __str__(self) -> str:
        return f"rollout.max_restarts = {self.most} within rollout.restart_window_s = {self.window_s:g} s"
