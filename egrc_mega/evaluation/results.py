"""The folder of an evaluation: `results.json`, and `samples/NAME.jsonl` with a line for every response of a benchmark.

The lines have what all figures are made of, so that two folders can be compared without a response being judged again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.errors import DataError, RunError
from egrc_mega.evaluation.intake import JudgedResponse
from egrc_mega.evaluation.statistics.l_acc import Measured
from egrc_mega.evaluation.statistics.outcomes import Outcomes

RESULTS, SAMPLES = "results.json", "samples"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """One benchmark of an evaluation."""

    name: str
    protocol: Mapping[str, Any]
    """All that decides about the numbers besides the weights."""
    judged: Sequence[JudgedResponse]
    differences: Sequence[str] = ()
    """Where the file's own verdicts differ, for people; at most a few dozen."""

    @property
    def protocol_key(self) -> str:
        """SHA-256 of the protocol."""
        return _hash(self.protocol)

    @property
    def result_key(self) -> str:
        """SHA-256 of every response's problem, verdict and length, in whatever order they came."""
        return _hash(sorted([each.problem, str(each.right), each.length or 0] for each in self.judged))

    @property
    def outcomes(self) -> Outcomes:
        """The columns that statistics are made of, the same whatever the order in which the responses came."""
        judged = sorted(self.judged, key=lambda each: each.problem)
        return Outcomes.of([j.problem for j in judged], [j.right for j in judged], [j.length for j in judged])

    @property
    def reasons(self) -> dict[str, int]:
        """How many verdicts each reason decided, the most frequent first."""
        return dict(Counter(each.reason for each in self.judged).most_common())


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on some benchmarks."""

    label: str
    model: str
    """Hash of the weights, or `label:...` where nobody has them."""
    sets: Mapping[str, SetResult] = field(default_factory=dict)

    def measured(self, name: str) -> Measured:
        """Which measurement the figures of a benchmark are."""
        found = self.sets[name]
        return Measured(label=self.label, model=self.model, protocol=found.protocol_key, result=found.result_key)


def protocol_of(
    golds: Mapping[str, str], judging: Mapping[str, Any], length_unit: str, sampling: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The protocol of a measurement.

    Args:
        golds: by problem: with them the benchmark's content is a part of the protocol.
        sampling: prompts and sampling settings; None: they are not known, so that only their owner can vouch for them.
    """
    return {
        "problems": _hash(sorted(golds.items())),
        "num_problems": len(golds),
        "judging": dict(judging),
        "length_unit": length_unit,
        "sampling": None if sampling is None else dict(sampling),
    }


def differing_fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The fields in which two protocols differ, with both values, for a message."""
    return [
        f"{key}: {first.get(key)!r:.120} and {second.get(key)!r:.120}"
        for key in sorted({*first, *second})
        if first.get(key) != second.get(key)
    ]


def write_evaluation(folder: Path, evaluation: Evaluation, summary: Mapping[str, Any]) -> None:
    """Write the folder; benchmarks of the same model that it has already stay, or are replaced by name.

    Raises:
        RunError: the folder is another model's, or cannot be read.
    """
    before = read_evaluation(folder) if (folder / RESULTS).exists() else evaluation
    if (before.label, before.model) != (evaluation.label, evaluation.model):
        raise RunError(
            f"--out: {folder} holds the evaluation of {before.label}, and this is {evaluation.label}; give each model "
            f"a folder of its own"
        )
    (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
    for name, found in evaluation.sets.items():
        lines = b"".join(orjson.dumps(asdict(each)) + b"\n" for each in found.judged)
        _replace(folder / SAMPLES / f"{name}.jsonl", lines)
    merged = replace(evaluation, sets={**before.sets, **evaluation.sets})
    summaries = {name: fields["summary"] for name, fields in _stored_sets(folder).items()} | dict(summary)
    content = {
        "version": VERSION,
        "label": merged.label,
        "model": merged.model,
        "sets": {
            name: {
                "protocol": found.protocol,
                "protocol_key": found.protocol_key,
                "result_key": found.result_key,
                "differences": list(found.differences),
                "summary": summaries.get(name),
            }
            for name, found in merged.sets.items()
        },
    }
    _replace(folder / RESULTS, orjson.dumps(content, option=orjson.OPT_INDENT_2))


def _stored_sets(folder: Path) -> dict[str, Any]:
    """The benchmarks that a folder's results have already, once `read_evaluation` has found them whole."""
    path = folder / RESULTS
    return dict(orjson.loads(path.read_bytes())["sets"]) if path.exists() else {}


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        RunError: there is nothing of the kind, it is torn or of another version, or a file was changed.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise RunError(f"{folder} holds no {RESULTS}; give a folder that `egrc eval --out` has written")
    try:
        content = orjson.loads(path.read_bytes())
        if content["version"] != VERSION:
            raise RunError(f"{path} is of version {content['version']}, not {VERSION}; evaluate again")
        sets = {name: _read_set(folder, name, fields) for name, fields in content["sets"].items()}
        found = Evaluation(label=content["label"], model=content["model"], sets=sets)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, OSError) as error:
        raise RunError(f"{path} is torn, or of another version ({error!r:.200}); evaluate again") from error
    for name, fields in content["sets"].items():
        if found.sets[name].result_key != fields["result_key"]:
            raise RunError(f"{folder / SAMPLES / name}.jsonl is not what {path} was made of; evaluate again")
    return found


def _read_set(folder: Path, name: str, fields: Mapping[str, Any]) -> SetResult:
    if name != Path(name).name:
        raise RunError(f"{folder / RESULTS}: {name!r} is no name of a set: it leads out of {SAMPLES}")
    judged = [JudgedResponse(**line) for line in _lines(folder / SAMPLES / f"{name}.jsonl")]
    return SetResult(name=name, protocol=fields["protocol"], judged=judged, differences=tuple(fields["differences"]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def _hash(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_bytes(content)
    partial.replace(path)


def require_same_protocol(one: Evaluation, base: Evaluation, name: str) -> None:
    """Refuse a base that was measured otherwise.

    Raises:
        DataError: it says in which fields.
    """
    fields = differing_fields(one.sets[name].protocol, base.sets[name].protocol)
    if fields:
        raise DataError(
            f"{name}: {base.label} is no base for {one.label}, for it was measured by another protocol: "
            f"{'; '.join(fields)}; evaluate both in the same way"
        )
