"""Finds and reads benchmarks as the hub, DeepScaleR and Qwen2.5-Math ship them; holds them to what is known of them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from egrc_mega.data.file_source import FileSourceSection
from egrc_mega.data.quarantine import BadRow
from egrc_mega.data.reader import read
from egrc_mega.errors import DataError
from egrc_mega.evaluation.known_sets import KNOWN_SETS, profile_of
from egrc_mega.evaluation.responses import id_of_text
from egrc_mega.sections.data import DataSection
from egrc_mega.types import Problem

FILE_NAMES: Mapping[str, tuple[str, ...]] = {
    "aime24": ("aime24", "aime_2024", "aime2024", "aime"),
    "amc83": ("amc83", "aimo_validation_amc", "amc"),
    "amc23": ("amc23",),
    "math500": ("math500", "math_500", "math"),
    "minerva_algebra": ("minerva_algebra", "algebra"),
    "minerva_math": ("minerva_math", "minervamath", "minerva"),
    "olympiadbench": ("olympiadbench", "olympiad_bench", "oe_to_maths_en_comp"),
    "gsm8k": ("gsm8k",),
}
"""What files and folders of each set are called, the plainest name first; before it may stand who ships it."""
SHIPPERS = ("deepscaler_", "qwen_")
ENDINGS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The problems of one set, each once, in the order of the file."""

    name: str
    path: Path
    problems: list[Problem]
    set_aside: list[BadRow]
    """Rows whose gold nobody can grade; they are not asked."""
    times: int
    """How often the file has each problem: DAPO's AIME has each 32 times."""

    @property
    def golds(self) -> dict[str, str]:
        """By the problem's identity, as `problem_id` makes it."""
        return {problem_id(problem): problem.answer for problem in self.problems}


def problem_id(problem: Problem) -> str:
    """A problem's identity by its text: the same in every copy of a set."""
    return id_of_text(problem.text)


def load_benchmark(name: str, path: Path, *, expects: int | None = None) -> Benchmark:
    """Read a set from a file.

    Args:
        expects: its number of problems; None: what is known of sets of this name.

    Raises:
        DataError: it cannot be read, has unknown fields, or not as many problems as the set has.
    """
    profile = profile_of(name)
    section = DataSection(train=path, source=FileSourceSection())
    reading = read(path, section, profile=profile)
    keys = reading.looks_like
    if keys is None:
        raise DataError(f"benchmark {name}: {path} has none of the usual fields for a problem and its answer")
    if keys != (section.prompt_key, section.answer_key):
        section = section.model_copy(update={"prompt_key": keys[0], "answer_key": keys[1]})
        reading = read(path, section, profile=profile)
    once = list({problem_id(problem): problem for problem in reversed(reading.good)}.values())[::-1]
    times = max(1, len(reading.good) // max(1, len(once)))
    found = Benchmark(name, path, once, reading.bad, times)
    _check_count(found, (expects,) if expects else KNOWN_SETS[name].rows if name in KNOWN_SETS else ())
    return found


def _check_count(found: Benchmark, rows: tuple[int, ...]) -> None:
    num = len(found.problems) + len(found.set_aside) // found.times
    if rows and num not in rows:
        known = KNOWN_SETS.get(found.name)
        what = f" ({known.what})" if known else ""
        raise DataError(
            f"benchmark {found.name}{what} has {' or '.join(map(str, rows))} problems, and {found.path} has {num}; "
            f"give the right file as {found.name}=FILE, or call another set by another name"
        )
    if not found.problems:
        raise DataError(f"benchmark {found.name}: {found.path} has no problem that can be graded")


def find_benchmark(text: str, folder: Path | None) -> tuple[str, Path]:
    """`NAME=FILE`, or a known name that is looked for in a folder.

    Raises:
        DataError: nothing is there, or more than one file might be meant.
    """
    name, equals, path = text.partition("=")
    if equals:
        found = Path(path)
        return name, _file_in(found, name) if found.is_dir() else found
    if name not in KNOWN_SETS:
        raise DataError(
            f"--benchmarks: {name!r} is unknown; choose from {', '.join(KNOWN_SETS)}, or give {name or 'NAME'}=FILE"
        )
    if folder is None:
        raise DataError(f"--benchmarks: where {name} is, nothing says; give {name}=FILE, --benchmarks-dir or --online")
    return name, _file_in(folder, name)


def _file_in(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"--benchmarks-dir: {folder} is no folder; give one that holds the benchmarks' files")
    for alias in FILE_NAMES.get(name, (name,)):
        found = sorted(path for path in _files(folder) if alias in _names(path.relative_to(folder)))
        if len(found) > 1:
            found = [path for path in found if "test" in path.stem.lower()] or found
        if len(found) > 1:
            raise DataError(f"benchmark {name}: {found[0]} or {found[1]}? give {name}=FILE")
        if found:
            return found[0]
    known = ", ".join(FILE_NAMES.get(name, (name,)))
    raise DataError(f"benchmark {name}: {folder} has no file or folder called {known}; give {name}=FILE")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name.endswith(ENDINGS))


def _names(path: Path) -> set[str]:
    """What a file may be known by: its own name without its ending, and those of the folders it is in."""
    stem = path.name
    for ending in sorted(ENDINGS, key=len, reverse=True):
        stem = stem.removesuffix(ending)
    names = {re.sub(r"[-. ]", "_", part.lower()) for part in (stem, *path.parent.parts)}
    return names | {name.removeprefix(shipper) for name in names for shipper in SHIPPERS}


def fetch_benchmark(name: str, folder: Path) -> Path:
    """A known set from the hub by the `datasets` library, kept as JSON Lines; what is there already is not fetched.

    Raises:
        DataError: the library is not installed, or the hub does not answer.
    """
    path = folder / f"{name}.jsonl"
    if path.exists():
        return path
    if name not in KNOWN_SETS:
        raise DataError(f"--online: {name!r} is unknown; choose from {', '.join(KNOWN_SETS)}")
    repository, configuration, split = KNOWN_SETS[name].hub
    rows = _hub_rows(repository, configuration, split)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_bytes(b"".join(orjson.dumps(dict(row), default=str) + b"\n" for row in rows))
    return partial.replace(path)


def _hub_rows(repository: str, configuration: str | None, split: str) -> Sequence[Mapping[str, object]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"--online: {repository} is read by the datasets library, which is not installed; pip install datasets, "
            f"or download the file and give --benchmarks-dir"
        ) from error
    load: Callable[..., Sequence[Mapping[str, object]]] = load_dataset
    try:
        return load(repository, configuration, split=split)
    except Exception as error:  # the library raises whatever its many parts do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"--online: {repository} ({configuration or 'default'}, {split}): {reason}") from error


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """What stands around a problem in the user's message."""

    before: str
    after: str

    def applied(self, problem: Problem) -> Problem:
        """The problem with the words around it."""
        return replace(problem, text=f"{self.before}{problem.text}{self.after}")


BOXED = "within \\boxed{}."
TEMPLATES: Mapping[str, PromptTemplate] = {
    "deepscaler": PromptTemplate("", f" Let's think step by step and output the final answer {BOXED}"),
    "r1": PromptTemplate("", f"\nPlease reason step by step, and put your final answer {BOXED}"),
    "thinkless": PromptTemplate(f"Please reason step by step, and put your final answer {BOXED}\n", ""),
    "none": PromptTemplate("", ""),
}
"""The wordings of the field: DeepScaleR's (Laser's and AutoThink's training, too), that of R1's card, Thinkless'."""
