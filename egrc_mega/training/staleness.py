"""How old the weights are that sampled a token, in optimizer versions: v3 has seen three steps."""

from collections.abc import Sequence

from egrc_mega.types import Completion


def version_number(name: str) -> int:
    """The number of a version: 3 for "v3"."""
    return int(name.removeprefix("v"))


def oldest_lag(completions: Sequence[Completion], current: int) -> int:
    """Versions between the oldest token and `current`; 0 when there is no token."""
    return max((current - version_number(span.version) for c in completions for span in c.weight_versions), default=0)


def mean_lag(completions: Sequence[Completion], current: int) -> float:
    """Mean over all tokens of how many versions old they are."""
    spans = [span for completion in completions for span in completion.weight_versions]
    total = sum(span.end - span.start for span in spans)
    return sum((current - version_number(s.version)) * (s.end - s.start) for s in spans) / total if total else 0.0
