"""The curves by which a stage may end: moving means of entropy, length and accuracy, and how long they stand still."""

from collections.abc import Mapping
from typing import Any

from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import PlateauSection


class Curves(Section):
    """The curves of one stage so far: all that its rules look at, small enough for every checkpoint."""

    entropy: float | None = None
    """Moving mean of the token entropy at temperature 1 (nats); None before the first measured step."""
    length: float | None = None
    """Moving mean of the mean response length (tokens)."""
    accuracy: float | None = None
    """Moving mean of the accuracy on training problems."""
    best_accuracy: float | None = None
    """The highest that the moving mean has been."""
    window: tuple[tuple[float, float], ...] = ()
    """(entropy, length) means of the last steps, oldest first."""
    still: int = 0
    """Steps in a row at which both means had hardly moved over the window."""


def follow(curves: Curves, rules: PlateauSection, record: Mapping[str, Any]) -> Curves:
    """The curves after one more step. A value that was not measured, or is not finite, leaves its mean where it was."""
    entropy = _mean(curves.entropy, record.get("entropy"), rules.ema_steps)
    length = _mean(curves.length, record.get("length"), rules.ema_steps)
    accuracy = _mean(curves.accuracy, record.get("accuracy"), rules.ema_steps)
    window = curves.window
    if entropy is not None and length is not None:
        window = (*window, (entropy, length))[-rules.window - 1 :]
    return Curves(
        entropy=entropy,
        length=length,
        accuracy=accuracy,
        best_accuracy=_higher(curves.best_accuracy, accuracy),
        window=window,
        still=_still(window, curves.still, rules),
    )


def _mean(old: float | None, new: Any, span: int) -> float | None:
    """Exponential moving mean; the first value is its own mean."""
    if not isinstance(new, int | float) or new != new or abs(new) == float("inf"):
        return old
    return float(new) if old is None else old + (new - old) * 2 / (span + 1)


def _higher(best: float | None, value: float | None) -> float | None:
    if best is None or value is None:
        return value if best is None else best
    return max(best, value)


def _still(window: tuple[tuple[float, float], ...], still: int, rules: PlateauSection) -> int:
    """One more when both means have moved by no more than their shares over the whole window.

    While a count is under way a move is forgiven up to `hysteresis` times the shares: it adds nothing, and takes
    nothing away.
    """
    if len(window) <= rules.window:
        return 0
    (old_entropy, old_length), (entropy, length) = window[0], window[-1]

    def moved_within(factor: float) -> bool:
        return abs(length - old_length) <= factor * rules.rel_length * abs(old_length) and abs(
            entropy - old_entropy
        ) <= factor * rules.rel_entropy * abs(old_entropy)

    if moved_within(1.0):
        return still + 1
    return still if still and moved_within(rules.hysteresis) else 0
