"""`egrc data fetch`: where the data sets of recipes and benchmarks come from, and how a download becomes our format.

Nothing is downloaded here. Licences, splits, rows and columns are those of the sets' cards on the hub, read in November
2026 in public copies of them; the card counts.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egrc_mega.data.file_source import FileSourceSection
from egrc_mega.data.reader import Reading, read
from egrc_mega.errors import ConfigError, DataError
from egrc_mega.evaluation.known_sets import KNOWN_SETS
from egrc_mega.grading.profiles import profile_called
from egrc_mega.sections.data import DataSection
from egrc_mega.types import Problem

RECIPES = "configs/r1_distill_qwen_7b.yaml and _1p5b.yaml"
ENDINGS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
NOT_DATA = ("dataset_infos.json", "dataset_info.json", "config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """One data set on the hub."""

    name: str
    what: str
    repository: str
    """On the hub."""
    configuration: str | None = None
    """The hub's name for a part of the repository."""
    split: str
    rows: tuple[int, ...]
    """How many rows copies of it have."""
    profile: str
    """Conventions by which its answers are understood (docs/grading.md)."""
    prompt_key: str = "problem"
    answer_key: str = "answer"
    licence: str = "its card states none"
    used_by: str = "egrc eval --benchmarks"


_FACTS: Mapping[str, Mapping[str, str]] = {
    "aime24": {"licence": "its card states none; its source aimo-validation-aime: Apache-2.0"},
    "amc83": {"licence": "Apache-2.0, as that of its sister aimo-validation-aime"},
    "amc23": {"prompt_key": "question"},
    "math500": {
        "licence": "its card states none; its problems are of MATH, MIT",
        "used_by": f"evaluation.data of {RECIPES}",
    },
    "minerva_algebra": {"answer_key": "solution", "licence": "MIT"},
    "minerva_math": {"prompt_key": "question"},
    "olympiadbench": {"prompt_key": "question", "answer_key": "final_answer", "licence": "Apache-2.0"},
    "gsm8k": {"prompt_key": "question", "licence": "MIT"},
}
DATA_SETS = {
    "deepscaler": DataSet(
        name="deepscaler",
        what="DeepScaleR-Preview: competition problems with answers",
        repository="agentica-org/DeepScaleR-Preview-Dataset",
        split="train",
        rows=(40315,),
        profile="deepscaler",
        licence="MIT",
        used_by=f"data.train of {RECIPES}",
    )
} | {
    known.name: DataSet(
        name=known.name,
        what=known.what,
        repository=known.hub[0],
        configuration=known.hub[1],
        split=known.hub[2],
        rows=known.rows,
        profile=known.profile,
        **_FACTS[known.name],
    )
    for known in KNOWN_SETS.values()
}
"""By name: what recipes train on, then every benchmark that is known by name."""


def data_set(name: str) -> DataSet:
    """A data set by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in DATA_SETS:
        raise ConfigError(f"egrc data fetch: {name} is unknown; choose from {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def described(chosen: DataSet) -> Iterator[str]:
    """Where it is, what it has, and the two commands that bring it here."""
    part = f", configuration {chosen.configuration}" if chosen.configuration else ""
    rows = " or ".join(str(count) for count in chosen.rows)
    yield f"{chosen.name}: {chosen.what}"
    yield f"  hub      https://huggingface.co/datasets/{chosen.repository}{part}, split {chosen.split}"
    yield f"  licence  {chosen.licence} (the card counts)"
    yield f"  rows     {rows}, columns {chosen.prompt_key} and {chosen.answer_key}"
    yield f"  used by  {chosen.used_by}"
    yield f"  get it   hf download --repo-type dataset {chosen.repository} --local-dir downloads/{chosen.name}"
    yield f"  then     egrc data fetch {chosen.name} --from downloads/{chosen.name} --to data/{chosen.name}.jsonl"


def convert(chosen: DataSet, source: Path, target: Path) -> str:
    """Write `problem` and `answer` of every usable row of a download, and say how many there are.

    Args:
        source: a file, or a folder of the hub in which the files of the split are found by their names.
        target: JSON Lines; must not exist.

    Raises:
        DataError: the files are not there, have another number of rows, or rows without problem or answer.
    """
    if target.exists():
        raise DataError(f"--to: {target} exists already; give another file, or move it aside")
    readings = [_read(chosen, file) for file in files_of(chosen, source)]
    total = sum(reading.total for reading in readings)
    if total not in chosen.rows:
        rows = " or ".join(str(count) for count in chosen.rows)
        raise DataError(
            f"--from: {source} has {total} rows, {chosen.name} has {rows}; download it whole, and this split alone"
        )
    good = [problem for reading in readings for problem in reading.good]
    if not good:
        raise DataError(
            f"--from: {source} has no row with {chosen.prompt_key} and {chosen.answer_key}; is it {chosen.name}?"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_row(problem), ensure_ascii=False) for problem in good]
    draft = target.with_name(f"{target.name}.tmp")
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draft.replace(target)
    left_out = f"; {total - len(good)} left out, egrc data inspect {source} says why" if total > len(good) else ""
    return f"{target}: {len(good)} of {total} rows{left_out}"


def _row(problem: Problem) -> dict[str, Any]:
    """Problem and answer, with what OlympiadBench says beside them where it says anything."""
    row: dict[str, Any] = {"problem": problem.text, "answer": problem.answer}
    hints = problem.hints
    if hints.multiple or hints.unit or hints.error:
        row |= {"is_multiple_answer": hints.multiple, "unit": hints.unit, "error": hints.error}
    return row


def _read(chosen: DataSet, file: Path) -> Reading:
    section = DataSection(
        train=file, source=FileSourceSection(), prompt_key=chosen.prompt_key, answer_key=chosen.answer_key
    )
    return read(file, section, profile=profile_called(chosen.profile).name)


def files_of(chosen: DataSet, source: Path) -> list[Path]:
    """The file, or the files of a folder that the split and the configuration lie in.

    Raises:
        DataError: there is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"--from: {source} does not exist; download it first: egrc data fetch {chosen.name}")
    found = [file for file in sorted(source.rglob("*")) if file.name.endswith(ENDINGS) and file.name not in NOT_DATA]
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(source).parts)]
    for word in (chosen.configuration, chosen.split):
        named = [file for file in found if word and word in str(file.relative_to(source))]
        found = named or found
    if not found:
        raise DataError(f"--from: {source} holds no file of {', '.join(ENDINGS)}; give the file itself")
    return found
