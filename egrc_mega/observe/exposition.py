"""A run's present state as Prometheus reads it (text format 0.0.4): `egrc_step 7`, `egrc_server_state{...} 1`.

Every number of the step's record is a metric of its own, `egrc_` and its name in `metrics.jsonl`; what is a list with
one entry a server has the label `server`. All are gauges, also what counts for a whole run.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OWN = ("step", "total_steps")
"""Numbers of the record that have metrics with words of their own."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One family: a name, what it means, and its samples."""

    name: str
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)


def exposition(now: Mapping[str, Any]) -> str:
    """The page of what `training.live.Live.snapshot` says."""
    lines: list[str] = []
    for metric in _metrics(now):
        if metric.samples:
            lines += [f"# HELP {metric.name} {_escaped(metric.help, quotes=False)}", f"# TYPE {metric.name} gauge"]
            lines += [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in metric.samples]
    return "".join(f"{line}\n" for line in lines)


def _metrics(now: Mapping[str, Any]) -> Iterator[Metric]:
    record = now["record"]
    yield Metric("egrc_info", "The run.", [({"run": now["run"], "version": now["version"]}, 1.0)])
    yield from _of_the_loop(now, record)
    yield from _of_servers(now["servers"])
    for name, value in record.items():
        metric = "egrc_" + re.sub(r"[^a-zA-Z0-9_]", "_", name)
        if isinstance(value, int | float) and name not in OWN:
            yield Metric(metric, f"{name} of the newest step.", [({}, float(value))])
        elif _is_by_server(value, now["servers"]):
            samples = [({"server": str(number)}, float(each)) for number, each in enumerate(value)]
            yield Metric(metric, f"{name} of the newest step, by server.", samples)


def _of_the_loop(now: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[Metric]:
    phase = {"phase": now["phase"]}
    yield Metric("egrc_phase_seconds", "How long rank 0 has been in this phase.", [(phase, now["phase_s"])])
    if record:
        yield Metric("egrc_step", "Steps that are done.", [({}, record["step"])])
        yield Metric("egrc_total_steps", "Steps of the whole run, at most.", [({}, record["total_steps"])])
        labels = {"stage": record["stage"], "method": record["method"]}
        yield Metric("egrc_stage", "The stage of the newest step.", [(labels, 1.0)])
        help = "When the newest step was recorded, seconds since 1970."
        yield Metric("egrc_step_timestamp_seconds", help, [({}, float(now["recorded_at"]))])


def _of_servers(servers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    labels = [{"server": str(server["number"]), "url": server["url"]} for server in servers]
    states = [
        (own | {"state": state}, float(state == server["state"]))
        for own, server in zip(labels, servers, strict=True)
        for state in server["states"]
    ]
    yield Metric("egrc_server_state", "1 for the state that a server is in, 0 for every other.", states)
    for name, key, help in (
        ("egrc_server_requests_in_flight", "in_flight", "Requests that were sent and not answered yet."),
        ("egrc_server_requests_waiting", "waiting", "Requests in the server's queue, by its own word."),
    ):
        yield Metric(name, help, [(own, float(s[key])) for own, s in zip(labels, servers, strict=True)])


def _is_by_server(value: Any, servers: Sequence[Any]) -> bool:
    is_numbers = isinstance(value, list) and all(isinstance(each, int | float) for each in value)
    return is_numbers and len(value) == len(servers)


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value, quotes=True)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str, *, quotes: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return repr(float(value)) if math.isfinite(value) else ("+Inf" if value > 0 else "-Inf")
