"""A run's evaluations as comparisons read them: of its base and of the end of each stage."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.errors import RunError
from egrc_mega.evaluation.intake import OWN_TOKENS, JudgedResponse
from egrc_mega.evaluation.records import Point, Protocol
from egrc_mega.evaluation.results import RESULTS, Evaluation, SetResult, read_evaluation
from egrc_mega.evaluation.sample_log import SAMPLES, Key, read_samples
from egrc_mega.evaluation.store import TABLE, read_table

NOISE = ("samples_per_problem", "seed")
"""What of a protocol two evaluations may differ in: how often the same was asked."""


def read_evaluations(folder: Path) -> list[Evaluation]:
    """What a folder has measured: one model, of `egrc eval`; the base and the stages of a run, in order.

    Raises:
        RunError: there is nothing of the kind, or it cannot be read.
    """
    if (folder / RESULTS).is_file() or not (folder / TABLE).is_file():
        return [read_evaluation(folder)]
    found = list(_evaluations_of_run(folder))
    if not found:
        raise RunError(
            f"{folder} has no {SAMPLES} with the responses of its evaluations: an earlier version wrote it; "
            f"measure its models with egrc eval"
        )
    return found


def all_evaluations(folders: Sequence[Path]) -> dict[Path, list[Evaluation]]:
    """The evaluations of several folders, under names that tell them apart; a base that runs share stands once."""
    found = {folder: read_evaluations(folder) for folder in dict.fromkeys(folders)}
    if len(found) == 1:
        return found
    known: set[str] = set()
    kept = {folder: [each for each in rows if _is_new(each, known)] for folder, rows in found.items()}
    return {
        folder: [
            each if len(found[folder]) == 1 else replace(each, label=f"{folder.name}/{each.label}") for each in rows
        ]
        for folder, rows in kept.items()
    }


def _is_new(each: Evaluation, known: set[str]) -> bool:
    """Whether nobody has these weights with these results yet; from now on somebody has."""
    measured = [each.measured(name) for name in sorted(each.sets)]
    key = str([(one.model, one.protocol, one.result) for one in measured])
    is_new = key not in known
    known.add(key)
    return is_new


def _evaluations_of_run(folder: Path) -> Iterator[Evaluation]:
    table = read_table(folder)
    points = [point for point in table.points if not point.within]
    samples = read_samples(folder, {(point.weights, point.protocol) for point in points})
    places = sorted({(point.ordinal, point.step or 0, point.label) for point in points})
    names = [label for _ordinal, _step, label in places]
    for place in places:
        own = [point for point in points if (point.ordinal, point.step or 0, point.label) == place]
        sets = {each.name: each for each in _results(own, table.protocols, samples)}
        label = place[2] if names.count(place[2]) == 1 else f"{place[2]}, step {place[1]}"
        if sets:
            yield Evaluation(label=label, model=own[0].weights, sets=sets)


def _results(points: Sequence[Point], protocols: Any, samples: dict[Key, list[JudgedResponse]]) -> Iterator[SetResult]:
    """One for each set and temperature of a place."""
    names = [_set_name(point, protocols[point.protocol]) for point in points]
    for point, name in zip(points, names, strict=True):
        judged = samples.get((point.weights, point.protocol))
        if judged:
            named = name if names.count(name) == 1 else f"{name}@T{point.temperature:g}"
            yield SetResult(name=named, protocol=_comparable(protocols[point.protocol]), judged=judged)


def _set_name(point: Point, protocol: Protocol) -> str:
    return point.set or protocol.benchmark.split(".")[0]


def _comparable(protocol: Protocol) -> dict[str, Any]:
    """All that decides about the figures, as the protocol of an evaluation."""
    fields = orjson.loads(orjson.dumps(protocol))
    return {name: value for name, value in fields.items() if name not in NOISE} | {"length_unit": OWN_TOKENS}
