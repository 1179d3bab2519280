"""Keeps megatron-core's announcements off the user's screen."""

import warnings


def hush_megatron() -> None:
    """Ignore its warnings at every import and first use: what it falls back from, `egrc doctor` says once."""
    warnings.filterwarnings("ignore", module=r"megatron\.")
    warnings.filterwarnings("ignore", message="Please use DTensor instead", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`load_state_dict` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\..* is deprecated", category=FutureWarning)
