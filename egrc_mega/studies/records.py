"""The files of a cell's folder: what it is, and what came out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from egrc_mega.config.load import validated
from egrc_mega.errors import ConfigError, RunError
from egrc_mega.studies.grid import Cell, Study, first_difference

CELL, RESULT = "cell.json", "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePassed:
    """A stage of the run that has ended."""

    name: str
    method: str
    steps: int
    reason: str
    """Which rule ended it, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a cell gave, or why it gave nothing."""

    setting: str
    seed: int
    failure: str | None = None
    """In words; None: the run went to its end."""
    points: Sequence[Mapping[str, Any]] = ()
    """Rows of the run's evaluation.json."""
    stages: Sequence[StagePassed] = ()
    curves: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Field of the steps' records -> its value at each step; `step` and `stage` among them."""
    wall_s: float | None = None
    """Seconds from the start of training to its end, those between a kill and the resume left out."""
    started: float | None = None
    ended: float | None = None
    """Seconds since the epoch."""
    machine: str = ""
    """Where it ran, in words."""
    version: str = ""
    """Of this package."""


def read_result(folder: Path) -> Result | None:
    """The result in a cell's folder; None where there is none yet.

    Raises:
        RunError: the file is torn or of another version.
    """
    path = folder / RESULT
    try:
        stored = orjson.loads(path.read_bytes())
        return Result(**stored | {"stages": [StagePassed(**stage) for stage in stored["stages"]]})
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error!r}); remove {folder} to run the cell again") from error


def write_result(folder: Path, result: Result) -> None:
    """Write it whole or not at all."""
    _write(folder / RESULT, asdict(result))


def take_folder(cell: Cell) -> None:
    """Make a cell's folder and say in it which run it is for.

    Raises:
        RunError: see `check_folders`.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    _check(cell)
    if not (cell.folder / CELL).exists():
        config = cell.config.to_dict()
        _write(cell.folder / CELL, {"setting": cell.setting, "seed": cell.seed, "config": config})


def check_folders(study: Study) -> None:
    """Refuse a study whose folder has a cell of the same name with another configuration.

    Raises:
        RunError: with one line for each such cell.
    """
    found = []
    for cell in study.cells:
        try:
            _check(cell)
        except RunError as error:
            found.append(str(error))
    if found:
        raise RunError("\n".join(found))


def _check(cell: Cell) -> None:
    path = cell.folder / CELL
    if not path.exists():
        return
    try:
        # read as today's configurations are: a field that has come since then has its default
        before = validated(orjson.loads(path.read_bytes())["config"]).to_dict()
    except (orjson.JSONDecodeError, TypeError, KeyError, ConfigError) as error:
        raise RunError(f"{path} cannot be read ({error!r}); remove {cell.folder} to run the cell again") from error
    if difference := first_difference(before, cell.config.to_dict()):
        raise RunError(
            f"{cell.name}: {difference}; what was run by the first is not run or shown as the second: give the setting "
            f"another name, the study another dir, or remove {cell.folder}"
        )


def _write(path: Path, value: Any) -> None:
    write_whole(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is never seen in part, whoever else writes it at the same time."""
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    partial.write_bytes(content)
    partial.replace(path)
