"""The names of the weights that servers were given: which of them new tokens may come from, and look back at."""

from collections.abc import Callable
from dataclasses import replace

from egrc_mega.sections.rollout import Cache
from egrc_mega.types import Completion


class Versions:
    """Of one fleet, in order.

    Args:
        cache: what requests in flight do with theirs when weights move.
    """

    def __init__(self, cache: Cache = "recompute") -> None:
        self.cache = cache
        self._names: list[str] = []
        self._num_confirmed = 0
        """How many of them every server had confirmed."""
        self.listeners: list[Callable[[str], None]] = []
        """Each gets, in the fleet's loop, the name of weights that every server has; it must not wait."""

    @property
    def newest(self) -> str | None:
        """Name of the newest weights that every server has; None before the first ones."""
        return self._names[self._num_confirmed - 1] if self._num_confirmed else None

    def announce(self, name: str) -> None:
        """Servers are about to load these weights."""
        self._names.append(name)

    def confirm(self) -> None:
        """Every server has the weights that were announced last."""
        self._num_confirmed = len(self._names)
        for listen in self.listeners:
            listen(self._names[-1])

    @property
    def keeps_cache(self) -> bool:
        """Whether the update under way leaves servers what they have cached. The first of a fleet never does: what they
        have then may be of another run, under the same names."""
        return self.cache == "keep" and self._num_confirmed > 0

    def cache_key(self) -> str | None:
        """The part of a server's prefix cache that a request of now may use; None: all of it, nothing in it is older.

        Where caches outlive their weights, what requests share is kept apart by the weights that were everywhere when
        they were sent (SGLang: `extra_key`).
        """
        if self.cache == "recompute":
            return None
        return self.newest or ""

    def since_now(self) -> int:
        """A mark to hand to `stale`: what is sampled from here on comes from the current weights or later ones."""
        return self._num_confirmed

    def stale(self, completion: Completion, num_begun: int, mark: int) -> str | None:
        """In words, what is wrong with the weights of the tokens behind the first `num_begun`; None: nothing."""
        if mark == 0:
            return None  # servers that run already may call their first weights anything
        allowed = self._names[mark - 1 :]
        for span in completion.weight_versions:
            if span.end > num_begun and span.version not in allowed:
                return f"sampled from weights {span.version!r}, current are {allowed}"
        return None


def with_purity(completion: Completion, cache_key: str | None) -> Completion:
    """Say of every span of a server's reply whether all that its tokens look back at is of the span's own weights.

    With a cache key it is only what comes first, and only where that has the weights that the key names: a request
    that had no token yet when they moved may have a prompt of older ones (sglang 0.5.23 labels by tokens).
    """
    if cache_key is None:
        return completion
    spans = completion.weight_versions
    marked = (replace(span, pure=i == 0 and span.version == cache_key) for i, span in enumerate(spans))
    return replace(completion, weight_versions=tuple(marked))
