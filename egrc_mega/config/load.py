"""Loads a configuration: YAML files, later over earlier ones, then `--set`, then validation of everything at once."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from egrc_mega import yaml_text
from egrc_mega.config.config import Config, use_plugins
from egrc_mega.config.explain import explain
from egrc_mega.errors import ConfigError

PATHS = (
    ("run", "dir"),
    ("model", "path"),
    ("data", "train"),
    ("evaluation", "data"),
    ("evaluation", "sets", "*", "data"),
    ("evaluation", "spare", "announce_dir"),
    ("rollout", "hosts_file"),
    ("rollout", "announce_dir"),
)
"""In a file they are relative to that file's folder; in `--set` to the working directory. `*` stands for any name."""

"""What YAML makes of text that is none: a day that no month has and a number without end are ValueErrors."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A validated configuration and where each value came from."""

    config: Config
    provenance: dict[str, str]
    """Dotted name -> the file, or `--set`; what is missing is a default."""


def load_config(
    files: Path | Sequence[Path], overrides: Sequence[str] = (), below: dict[str, Any] | None = None
) -> LoadedConfig:
    """Read, compose, override, validate.

    Sections of a later file are laid over those of an earlier one, value by value; a list, `stages` among them, is
    replaced as a whole.

    Args:
        below: values over which the first file is laid, for whoever needs a part of a configuration only.

    Raises:
        ConfigError: with one line for each problem: field, value found, remedy.
    """
    raw: dict[str, Any] = copy.deepcopy(below or {})
    provenance: dict[str, str] = {}
    for path in [files] if isinstance(files, Path) else files:
        found = read_yaml(path)
        _resolve_paths(found, path.resolve().parent)
        _lay_over(raw, found)
        names = set(_leaves(raw))
        provenance = {name: origin for name, origin in provenance.items() if name in names}
        provenance |= dict.fromkeys(_leaves(found), str(path))
    for override in overrides:
        keys, value = _parse_override(override, raw)
        _assign(raw, keys, value, override)
        provenance[".".join(map(str, keys))] = "--set"
    config = validated(raw)
    return LoadedConfig(config, _of_every_cycle(provenance, len(raw["stages"]), len(config.stages)))


def _of_every_cycle(provenance: dict[str, str], listed: int, run: int) -> dict[str, str]:
    """Where the values come from of stages that are gone through more than once (`cycles`)."""
    if run == listed:
        return provenance
    origin = provenance.pop("cycles", "default")
    for place in range(listed, run):
        prefix, own = f"stages.{place % listed}.", f"stages.{place}."
        provenance |= {own + name.removeprefix(prefix): o for name, o in provenance.items() if name.startswith(prefix)}
        provenance[f"{own}label"] = origin
    return provenance


def validated(raw: dict[str, Any]) -> Config:
    """A configuration from plain values, with the plugins that it names.

    Raises:
        ConfigError: with one line for each problem.
    """
    names = raw.get("plugins") or []
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    use_plugins(names if is_list else [])  # what is no list of names is told below, with all other mistakes
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_with_names(line, raw) for line in explain(error))) from error


def _with_names(line: str, raw: dict[str, Any]) -> str:
    """A problem's line with the stage by its name, as `--set` takes it, where it has one to itself."""
    found = re.match(r"stages\.(\d+)\.(?!method:)", line)
    names = _stage_names(raw)
    name = names[int(found[1])] if found and int(found[1]) < len(names) else None
    return f"stages.{name}.{line[found.end() :]}" if found and name and names.count(name) == 1 else line


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _value in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise ConfigError(f"{self.name}:{node.start_mark.line + 1}: key {min(map(str, twice))} stands twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a file holds, no key of which stands twice.

    Raises:
        ConfigError: no such file, no YAML, or no mapping.
    """
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist")
    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml_text.read(file, _UniqueKeyLoader)
    except yaml_text.UNREADABLE as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, found {type(raw).__name__}")
    return raw


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    for place in PATHS:
        _resolve_path(raw, place, folder)
    if isinstance(raw.get("plugins"), list):
        raw["plugins"] = [_plugin_path(name, folder) for name in raw["plugins"]]


def _resolve_path(raw: Any, place: Sequence[str], folder: Path) -> None:
    """Make the values at a place below `raw` absolute, where there are any."""
    if not isinstance(raw, dict):
        return
    key, *rest = place
    for name in list(raw) if key == "*" else [name for name in (key,) if name in raw]:
        if rest:
            _resolve_path(raw[name], rest, folder)
        elif isinstance(raw[name], str):
            raw[name] = str((folder / raw[name]).resolve())


def _plugin_path(name: Any, folder: Path) -> Any:
    return str((folder / name).resolve()) if isinstance(name, str) and name.endswith(".py") else name


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _parse_override(override: str, raw: dict[str, Any]) -> tuple[list[str | int], Any]:
    """`a.b=value`; a stage may be named by its index, its label or its method."""
    name, found, text = override.partition("=")
    if not found:
        raise ConfigError(f"--set {override}: expected key=value, e.g. --set rollout.prompts_per_step=32")
    keys: list[str | int] = list(name.split("."))
    try:
        value = yaml_text.read(text)
    except yaml_text.UNREADABLE as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from error
    if len(keys) > 1 and keys[0] == "stages":
        keys[1] = _stage_index(str(keys[1]), raw, override)
    value = _resolved_value(keys, value)
    if keys == ["plugins"] and isinstance(value, list):
        value = [_plugin_path(name, Path.cwd()) for name in value]
    return keys, value


def _resolved_value(keys: Sequence[str | int], value: Any) -> Any:
    """A value of `--set` with the paths in it relative to the working directory."""
    for place in PATHS:
        if len(keys) <= len(place) and all(part in (key, "*") for key, part in zip(keys, place, strict=False)):
            held = {"value": value}
            _resolve_path(held, ("value", *place[len(keys) :]), Path.cwd())
            value = held["value"]
    return value


def _stage_names(raw: dict[str, Any]) -> list[str | None]:
    """Label or method of each stage in plain values; None for one that says neither, or is no section."""
    stages = raw.get("stages")
    found = [stage if isinstance(stage, dict) else {} for stage in (stages if isinstance(stages, list) else [])]
    return [stage.get("label") or stage.get("method") for stage in found]


def _stage_index(key: str, raw: dict[str, Any], override: str) -> int:
    names = _stage_names(raw)
    if names.count(key) > 1:
        raise ConfigError(f"--set {override}: stages {names} have two of that name; give them labels")
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(names):
        return int(key)
    raise ConfigError(f"--set {override}: there is no stage {key!r}, stages are {names}")


def _assign(raw: dict[str, Any], keys: list[str | int], value: Any, override: str) -> None:
    target: Any = raw
    for key in keys[:-1]:
        if isinstance(target, list) and not isinstance(key, int):
            raise ConfigError(f"--set {override}: {key} is in a list; give the whole list")
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
