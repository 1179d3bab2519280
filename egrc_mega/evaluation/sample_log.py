"""`evaluation_samples.jsonl`: verdict and length of every response of a run's evaluations, a line a measurement.

With them two runs are compared problem by problem, without a response being judged again.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from egrc_mega.errors import RunError
from egrc_mega.evaluation.intake import JudgedResponse
from egrc_mega.evaluation.records import Point
from egrc_mega.observe.events import EventLog, read_events

SAMPLES = "evaluation_samples.jsonl"
KIND = "samples"
FIELDS = ("problem", "right", "reason", "published", "length", "characters", "truncated")
Key = tuple[str, str]
"""Hashes of weights and protocol: a measurement."""


def write_samples(run_dir: Path, point: Point, judged: Sequence[JudgedResponse]) -> None:
    """Append a measurement, a list for each field of its responses."""
    rows = [asdict(each) for each in judged]
    columns = {name: [row[name] for row in rows] for name in FIELDS}
    with EventLog(run_dir / SAMPLES) as log:
        log.write(KIND, weights=point.weights, protocol=point.protocol, set=point.set, **columns)


def read_samples(run_dir: Path, wanted: Collection[Key]) -> dict[Key, list[JudgedResponse]]:
    """The responses of some measurements; of one that stands twice the later ones. What is not there is left out.

    Raises:
        RunError: a line is of another version.
    """
    path = run_dir / SAMPLES
    found: dict[Key, list[JudgedResponse]] = {}
    for event in read_events(path) if path.exists() else ():
        key = event.get("weights", ""), event.get("protocol", "")
        if key in wanted:
            found[key] = _responses(event, path)
    return found


def _responses(event: dict[str, Any], path: Path) -> list[JudgedResponse]:
    try:
        rows = zip(*(event[name] for name in FIELDS), strict=True)
        return [JudgedResponse(**dict(zip(FIELDS, row, strict=True))) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is of another version ({error!r}); move it aside and measure again") from error
