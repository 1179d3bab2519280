"""Results of a study's cells for tests, as far as a study looks at them."""

from typing import Any

from egrc_mega.studies.records import Result, StagePassed


def point(label: str, ordinal: int, accuracy: float | None, length: float, temperature: float = 1.0) -> dict[str, Any]:
    """A row of an evaluation, as far as a study looks at it."""
    fields = {"label": label, "ordinal": ordinal, "temperature": temperature}
    return fields | {"accuracy": accuracy, "mean_length": length, "l_acc": 0.5, "n": 8, "num_ungraded": 0}


def result(setting: str, seed: int, accuracy: float | None, length: float, **more: Any) -> Result:
    """A result with a base, one stage and an evaluation at the end."""
    steps = int(more.pop("steps", 6))
    curves = {"step": list(range(1, steps + 1)), "stage": ["compress"] * steps, "entropy": [0.1] * steps}
    fields: dict[str, Any] = {
        "points": [point("base", 0, 0.5, 100.0), point("compress", 1, accuracy, length)],
        "stages": [StagePassed(name="compress", method="compress", steps=steps, reason="all steps are done")],
        "curves": curves,
        "wall_s": 60.0,
        "started": 0.0,
        "ended": 120.0,
        "machine": "2 x86_64 cores",
        "version": "0",
    }
    return Result(setting=setting, seed=seed, **fields | more)
