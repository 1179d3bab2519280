"""The names of the weights that servers were given, and which of them new tokens may come from."""

from egrc_mega.types import Completion


class Versions:
    """Of one fleet, in order."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._num_confirmed = 0
        """How many of them every server had confirmed."""

    def announce(self, name: str) -> None:
        """Servers are about to load these weights."""
        self._names.append(name)

    def confirm(self) -> None:
        """Every server has the weights that were announced last."""
        self._num_confirmed = len(self._names)

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
