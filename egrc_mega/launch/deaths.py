"""Whether a run that has died is started again, and after how long: a value, and a pure function of its deaths."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from egrc_mega.errors import ConfigError, DataError, HealthError, MethodError, ModelError, RunError
from egrc_mega.sections.supervisor import SupervisorSection

NEVER_MENDED = frozenset(
    error.exit_code for error in (ConfigError, DataError, ModelError, RunError, MethodError, HealthError)
)
"""What the user has to look at: started again it would only end so again."""


@dataclass(frozen=True, slots=True)
class Death:
    """How an attempt has ended without having done its work."""

    exit_code: int
    """Negative: the number of the signal that has killed it."""
    step: int
    """Number of the last step that was recorded; a resumed run records some of them once more."""
    moment: float
    """Seconds of the monotonic clock."""

    @property
    def cause(self) -> str:
        """What has ended it, in words."""
        return f"signal {-self.exit_code}" if self.exit_code < 0 else f"exit code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from the deaths so far."""

    wait_s: float | None
    """Start it again after so many seconds; None: leave it."""
    reason: str


def judge(deaths: Sequence[Death], rules: SupervisorSection) -> Verdict:
    """The verdict after the last of the deaths, of which there is at least one."""
    last = deaths[-1]
    if last.exit_code in NEVER_MENDED:
        return Verdict(None, f"{last.cause} is nothing that a restart mends")
    at_this_step = _run_of_same_step(deaths)
    if at_this_step >= rules.max_same_step:
        return Verdict(
            None,
            f"it has died {at_this_step} times in step {last.step + 1} (supervisor.max_same_step), last with "
            f"{last.cause}: that is no bad luck",
        )
    recent = sum(last.moment - death.moment < rules.restart_window_s for death in deaths)
    if recent > rules.max_restarts:
        return Verdict(
            None,
            f"{recent - 1} restarts within {rules.restart_window_s:g} s (supervisor.max_restarts) are used up; it died "
            f"last in step {last.step + 1} with {last.cause}",
        )
    wait_s = min(rules.backoff_s * 2.0 ** (at_this_step - 1), rules.max_backoff_s)
    return Verdict(wait_s, f"{last.cause} in step {last.step + 1}")


def _run_of_same_step(deaths: Sequence[Death]) -> int:
    """Deaths at the end of the sequence in one and the same step."""
    return len(list(takewhile(lambda death: death.step == deaths[-1].step, reversed(deaths))))
