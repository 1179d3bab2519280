"""Which numbers of an event a tracker gets, and under which step."""

import math
from collections.abc import Mapping
from typing import Any


def values_of(event: Mapping[str, Any]) -> tuple[int, dict[str, float]] | None:
    """Step (counted from 1) and finite numbers of a step's record, or of an evaluation; None for every other event."""
    if event.get("kind") == "step":
        return event["step"], {f"train/{name}": value for name, value in _numbers(event).items() if name != "step"}
    if event.get("kind") == "evaluation":
        name = f"{event['set']}/" if event.get("set") else ""
        prefix = f"eval/{name}T{event['temperature']:g}"
        figures = {name: event.get(name) for name in ("accuracy", "mean_length", "l_acc", "num_ungraded")}
        figures |= {f"pass@{k}": value for k, value in event.get("pass_at", {}).items()}
        # numbers that were measured beside training come when trackers have seen later steps
        own = {"eval/step": float(event.get("step") or 0)}
        values = {f"{prefix}/{name}": value for name, value in _numbers(figures).items()}
        return event.get("step") or 0, own | values
    return None


def _numbers(fields: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in fields.items()
        if isinstance(value, int | float) and math.isfinite(value) and name not in ("time", "total_steps")
    }
