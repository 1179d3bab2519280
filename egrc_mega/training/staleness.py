"""How old the weights are that sampled a token, in optimizer versions: v3 has seen three steps."""

from collections import Counter
from collections.abc import Sequence

from egrc_mega.types import Completion, Group


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


def staleness_histogram(groups: Sequence[Group], current: int) -> list[int]:
    """How many groups have their oldest token from weights 0, 1, 2, ... versions old, up to the oldest of all."""
    counts = Counter(oldest_lag([sample.completion for sample in group.samples], current) for group in groups)
    return [counts[lag] for lag in range(max(counts, default=-1) + 1)]
