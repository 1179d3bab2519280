"""How many files and connections a process may have open at once."""

import resource

NEEDED = 256
"""A run on one machine has about half of it: connections to servers and ranks, graders, logs."""


def raise_limit() -> int:
    """Raise this process's limit as far as the system lets it; returns the limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
