"""`egrc data inspect`: a data file under a configuration, or under what can be guessed of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from egrc_mega.config.config import Config
from egrc_mega.config.explain import explain
from egrc_mega.config.load import load_config
from egrc_mega.data.census import Census, census
from egrc_mega.data.reader import read
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.errors import ConfigError
from egrc_mega.evaluation.sets import EvaluationSet, evaluation_sets, training_profile
from egrc_mega.grading.profiles import profile_called
from egrc_mega.sections.data import DataSection, GradingSection


def inspect_data(
    file: Path,
    config_files: Sequence[Path],
    overrides: Sequence[str],
    *,
    model: Path | None,
    stated: Mapping[str, Any],
    profile: str | None,
) -> Census:
    """The census of a file.

    Args:
        config_files: whose data section counts, or whose evaluation where the file is its benchmark; none: defaults.
        model: folder of the tokenizer; None: the configuration's, or none.
        stated: fields of the data section that win.
        profile: conventions of the set; None: the configuration's.

    Raises:
        EgrcError: the configuration, the file or the model folder cannot be used.
    """
    config = load_config(config_files, overrides).config if config_files else None
    section = _section(file, config, stated)
    if config is None:
        section = _with_guessed_keys(file, section, stated)
    named = profile_called(profile).name if profile else _profile_of(file, config)
    folder = model or (config.model.path if config else None)
    renderer = Renderer(load_tokenizer(folder), section.instruction, section.template_date) if folder else None
    return census(file, section, renderer, profile=named)


def _profile_of(file: Path, config: Config | None) -> str | None:
    """The configuration's, by whether the file is its benchmark; without one the default."""
    if config is None:
        return GradingSection().profile
    benchmark = _benchmark(file, config)
    return benchmark.profile if benchmark else training_profile(config)


def _benchmark(file: Path, config: Config) -> EvaluationSet | None:
    """The set of the configuration's evaluation that is in the file."""
    sets = evaluation_sets(config)
    return next((each for each in sets if each.data.train.resolve() == file.resolve()), None)


def _section(file: Path, config: Config | None, stated: Mapping[str, Any]) -> DataSection:
    base: dict[str, Any] = {}
    if config:
        benchmark = _benchmark(file, config)
        base = (benchmark.data if benchmark else config.data).model_dump()
    try:
        return DataSection.model_validate(base | {"train": file} | dict(stated))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error))) from error


def _with_guessed_keys(file: Path, section: DataSection, stated: Mapping[str, Any]) -> DataSection:
    """The keys that the first rows have, where none are stated and the usual ones are not there."""
    found = read(file, section).looks_like
    if found is None:
        return section
    keys = {"prompt_key": found[0], "answer_key": found[1]}
    return section.model_copy(update={name: key for name, key in keys.items() if name not in stated})
