"""When a run that has died is started again."""

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.sections.base import Section


class SupervisorSection(Section):
    """Of `egrc train --supervise`."""

    max_restarts: NonNegativeInt = 10
    """Restarts within `restart_window_s`; one more ends the run."""
    restart_window_s: PositiveFloat = 3600.0
    """Length of the window, in seconds."""
    max_same_step: PositiveInt = 3
    """So many deaths one after another at the same step are no bad luck: they end the run."""
    backoff_s: PositiveFloat = 5.0
    """Wait before a restart, in seconds; doubled after each death that comes without a new step."""
    max_backoff_s: PositiveFloat = 300.0
    """Longest wait."""
