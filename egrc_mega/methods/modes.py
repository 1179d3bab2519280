"""The two modes of methods that let a model think or not, and how to tell which one a response is in."""

from egrc_mega.types import Sample

NO_THINKING, THINKING = "no_thinking", "thinking"
"""Tags of an `Ask`."""


def is_thinking(sample: Sample, marker: str) -> bool:
    """Whether a response thinks: by the mode that was asked for, else by whether it begins with anything but `marker`.

    Args:
        marker: begin of a response that does not think, e.g. `</think>`.
    """
    if sample.ask.tag in (NO_THINKING, THINKING):
        return sample.ask.tag == THINKING
    return not sample.text.lstrip().startswith(marker)
