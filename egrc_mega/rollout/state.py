"""What a server is doing, and what it may do next: the one place that says how states follow each other."""

from enum import StrEnum


class State(StrEnum):
    """A server is in one of these at a time; requests go to it while it is SERVING, and then only."""

    STARTING = "starting"
    """Its process comes up, or whoever started it is waited for; nothing is known of its weights."""
    SERVING = "serving"
    """It generates, with the weights that are current."""
    PAUSED = "paused"
    """It was told to stop generating, so that its memory may be freed."""
    FREED = "freed"
    """Its GPU memory is the trainer's; weights and cache are gone."""
    LOADING = "loading"
    """It takes new weights; requests that it had before wait in it and go on under those."""
    LOST = "lost"
    """Fenced after a failure, until it has been brought back."""


NEXT: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.STARTING, State.LOADING, State.SERVING}),
    State.SERVING: frozenset({State.LOADING, State.PAUSED, State.LOST}),
    State.PAUSED: frozenset({State.FREED, State.LOST}),
    State.FREED: frozenset({State.LOADING, State.LOST}),
    State.LOADING: frozenset({State.LOADING, State.SERVING, State.STARTING, State.LOST}),
    State.LOST: frozenset({State.STARTING, State.LOADING, State.SERVING}),
}
"""State -> those that may follow. From itself: a restart that fails is tried again, and weights may move on while a
server that came back still loads the last ones."""


def follows(state: State, after: State) -> State:
    """`state`, when it may follow `after`.

    Raises:
        RuntimeError: it may not, which is a mistake of this package.
    """
    if state not in NEXT[after]:
        raise RuntimeError(f"a server that is {after} cannot be {state} next")
    return state
