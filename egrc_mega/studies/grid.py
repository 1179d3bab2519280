"""Reads a study and lays out its cells: each a whole, validated configuration of a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from egrc_mega.config.check import problems
from egrc_mega.config.config import Config
from egrc_mega.config.explain import explain
from egrc_mega.config.load import PATHS, load_config, read_yaml
from egrc_mega.errors import ConfigError, EgrcError
from egrc_mega.sections.study import StudySection, VariantSection

CELLS = "cells"


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the study."""

    setting: str
    seed: int
    folder: Path
    config: Config

    @property
    def name(self) -> str:
        """As it stands in messages, and what its folder is called."""
        return self.folder.name


@dataclass(frozen=True, slots=True)
class Study:
    """A study's section, with its paths made absolute, and its cells."""

    file: Path
    section: StudySection
    settings: tuple[str, ...]
    cells: tuple[Cell, ...]
    """By seed, then by setting: a study that was stopped early has all its settings."""

    @property
    def title(self) -> str:
        """Heading of the page."""
        return self.section.title or self.file.stem

    @property
    def reference(self) -> str:
        """The setting to which the others are compared."""
        return self.section.reference or self.settings[0]


def read_study(file: Path) -> Study:
    """The study of a YAML file, its paths relative to the file's folder.

    Raises:
        ConfigError: with one line for each problem of the study, or of its cells' configurations.
    """
    section = _read_section(file)
    chosen = dict(_settings(section))
    if found := list(section.problems(tuple(chosen))):
        raise ConfigError("\n".join(f"{file.name}: {problem}" for problem in found))
    cells = tuple(
        _cell(section, setting, variants, seed) for seed in section.seeds for setting, variants in chosen.items()
    )
    return Study(file, section, tuple(chosen), cells)


def _read_section(file: Path) -> StudySection:
    try:
        section = StudySection.model_validate(read_yaml(file))
    except ValidationError as error:
        raise ConfigError("\n".join(f"{file.name}: {line}" for line in explain(error, StudySection))) from error
    folder = file.resolve().parent
    axes = {
        axis: {name: _placed(variant, folder) for name, variant in variants.items()}
        for axis, variants in section.axes.items()
    }
    return _placed(section, folder).model_copy(update={"dir": (folder / section.dir).resolve(), "axes": axes})


def _placed(section: Any, folder: Path) -> Any:
    """A study or a variant with absolute paths."""
    names = {".".join(path) for path in PATHS}
    values = {
        name: str((folder / value).resolve()) if name in names and isinstance(value, str) else value
        for name, value in section.set.items()
    }
    return section.model_copy(update={"configs": tuple(folder / path for path in section.configs), "set": values})


def _settings(section: StudySection) -> Iterator[tuple[str, list[VariantSection]]]:
    """Every setting's name and variants, in the order in which the axes name them."""
    for chosen in product(*(variants.items() for variants in section.axes.values())):
        yield "-".join(name for name, _variant in chosen), [variant for _name, variant in chosen]


def _cell(section: StudySection, setting: str, variants: Sequence[VariantSection], seed: int) -> Cell:
    folder = section.dir / CELLS / f"{setting}-seed{seed}"
    files = [*section.configs, *(file for variant in variants for file in variant.configs)]
    values: dict[str, Any] = {}
    layers: list[StudySection | VariantSection] = [section, *variants]
    for each in layers:
        values = {name: value for name, value in values.items() if name not in each.set} | each.set
    values |= {"run.dir": str(folder / "run"), "run.seed": seed}
    try:
        config = load_config(files, [_override(name, value) for name, value in values.items()]).config
        found = list(problems(config, 1, 1))
    except EgrcError as error:
        raise type(error)("\n".join(f"{folder.name}: {line}" for line in str(error).splitlines())) from error
    if found:
        raise type(found[0])("\n".join(f"{folder.name}: {problem}" for problem in found))
    return Cell(setting, seed, folder, config)


def _override(name: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("\n").removesuffix("\n...")
    return f"{name}={text}"


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str | None:
    """Of two configurations as plain values: the first field that differs, with both values; None: they are equal."""
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            old, new = dict(enumerate(old)), dict(enumerate(new))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            return first_difference(old, new, f"{prefix}{name}.")
        return f"{prefix}{name} was {old!r:.80} and is {new!r:.80}"
    return None
