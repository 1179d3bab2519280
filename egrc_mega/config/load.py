"""Loads a configuration: YAML, then `--set` overrides, then validation with every problem at once."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from egrc_mega.config.schema import CompressStage, Config, ExploreStage
from egrc_mega.errors import ConfigError

PATHS = (("run", "dir"), ("model", "path"), ("data", "train"), ("evaluation", "data"))
"""In a file they are relative to that file's folder; in `--set` to the working directory."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A validated configuration and where each value came from."""

    config: Config
    provenance: dict[str, str]
    """Dotted name -> the file, or `--set`; what is missing is a default."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Read, override, validate.

    Raises:
        ConfigError: with one line for each problem: field, value found, remedy.
    """
    raw = _read_yaml(path)
    _resolve_paths(raw, path.resolve().parent)
    provenance = dict.fromkeys(_leaves(raw), str(path))
    for override in overrides:
        keys, value = _parse_override(override, raw)
        _assign(raw, keys, value, override)
        provenance[".".join(map(str, keys))] = "--set"
    try:
        return LoadedConfig(Config.model_validate(raw), provenance)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from error


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _value in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ConfigError(f"{self.name}:{node.start_mark.line + 1}: key {min(map(str, twice))} stands twice")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist")
    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml.load(file, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, found {type(raw).__name__}")
    return raw


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    for section, key in PATHS:
        if isinstance(raw.get(section), dict) and isinstance(raw[section].get(key), str):
            raw[section][key] = str((folder / raw[section][key]).resolve())


def _parse_override(override: str, raw: dict[str, Any]) -> tuple[list[str | int], Any]:
    """`a.b=value`; a stage may be named by its index or its name."""
    name, found, text = override.partition("=")
    if not found:
        raise ConfigError(f"--set {override}: expected key=value, e.g. --set rollout.prompts_per_step=32")
    keys: list[str | int] = list(name.split("."))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from error
    if len(keys) > 1 and keys[0] == "stages":
        keys[1] = _stage_index(str(keys[1]), raw, override)
    if tuple(keys) in PATHS and isinstance(value, str):
        value = str(Path(value).resolve())
    return keys, value


def _stage_index(key: str, raw: dict[str, Any], override: str) -> int:
    stages = raw.get("stages") or []
    names = [stage.get("name") for stage in stages if isinstance(stage, dict)]
    if key in names:
        return names.index(key)
    if key.isdigit() and int(key) < len(stages):
        return int(key)
    raise ConfigError(f"--set {override}: there is no stage {key!r}, stages are {names}")


def _assign(raw: dict[str, Any], keys: list[str | int], value: Any, override: str) -> None:
    target: Any = raw
    for key in keys[:-1]:
        target = target[key] if isinstance(key, int) else target.setdefault(key, {})
        if not isinstance(target, dict | list):
            raise ConfigError(f"--set {override}: {key} is a value, not a section")
    target[keys[-1]] = value


def _leaves(value: Any, prefix: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    leaves = []
    for key, child in items:
        name = f"{prefix}{key}"
        leaves += _leaves(child, f"{name}.") if isinstance(child, dict | list) and child else [name]
    return leaves


def _explain(item: Any) -> str:
    """One pydantic problem as one line."""
    location = [part for part in item["loc"] if part not in ("compress", "explore")]
    name = ".".join(map(str, location))
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(location[-1]), _fields_beside(item["loc"]), n=1)
        hint = f"did you mean {close[0]}?" if close else "remove it"
        return f"{name}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{name}: required, but missing"
    return f"{name}: {item['input']!r:.80} is not usable: {item['msg'][0].lower()}{item['msg'][1:]}"


def _fields_beside(location: Sequence[str | int]) -> list[str]:
    """Names that the section of an unknown key does have."""
    model: Any = Config
    for part in location[:-1]:
        if part == "compress":
            model = CompressStage
        elif part == "explore":
            model = ExploreStage
        elif isinstance(part, str) and part != "stages":
            model = _section_of(model, part)
    return list(model.model_fields) if model else []


def _section_of(model: Any, field: str) -> Any:
    annotation = model.model_fields[field].annotation
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
