"""The configuration with each value's origin, and the environment, as rows for people."""

import json
from pathlib import Path
from typing import Any

import yaml

from egrc_mega import yaml_text
from egrc_mega.errors import RunError
from egrc_mega.run_folder import ORIGINS

CONFIG, ENVIRONMENT = "config.yaml", "environment.json"
DEFAULT = "default"
MAX_VALUE = 2000
"""Characters of a value that are shown."""
SECRET = ("token", "secret", "password", "api_key", "apikey", "credential")
"""A value whose name, or whose neighbour on the command line, has one of these is shown as withheld."""
WITHHELD = "(withheld)"


def config_of(run_dir: Path) -> dict[str, Any]:
    """The resolved configuration; empty where the folder has none.

    Raises:
        RunError: it is no YAML.
    """
    path = run_dir / CONFIG
    try:
        found = yaml_text.read(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except yaml_text.UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path} cannot be read ({reason}); restore it or move it aside") from error
    return found if isinstance(found, dict) else {}


def settings_of(run_dir: Path) -> dict[str, Any]:
    """Rows of name, value and origin: `default`, a file, or `--set`; None where the run has not recorded it."""
    origins = _read_json(run_dir / ORIGINS)
    rows = [(name, _shown(name, value)) for name, value in leaves(config_of(run_dir))]
    return {
        "has_origins": origins is not None,
        "rows": [[name, value, None if origins is None else _origin(name, origins)] for name, value in rows],
    }


def _origin(name: str, origins: dict[str, Any]) -> str:
    """The value's own origin, or that of a part of it: a list comes from where its items come from."""
    return str(next((o for n, o in origins.items() if n == name or n.startswith(f"{name}.")), DEFAULT))


def environment_of(run_dir: Path) -> list[list[str]]:
    """Rows of name and value: versions of the packages, the commit, the arguments."""
    found = _read_json(run_dir / ENVIRONMENT) or {}
    arguments = [str(each) for each in found.get("arguments") or ()]
    found = found | {"arguments": " ".join(without_secrets(arguments))}
    return [[name, _shown(name, value)] for name, value in leaves(found) if value is not None]


def leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values; a list of plain values is one value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: list[tuple[str, Any]] = []
    for key, child in items:
        name = f"{prefix}{key}"
        is_section = isinstance(child, dict) or (isinstance(child, list) and any(isinstance(c, dict) for c in child))
        found += leaves(child, f"{name}.") if is_section and child else [(name, child)]
    return found


def without_secrets(arguments: list[str]) -> list[str]:
    """Arguments of a command line, values of secret names withheld: `--token X`, `--set a.token=X`."""
    shown: list[str] = []
    for i, argument in enumerate(arguments):
        name, equals, _value = argument.partition("=")
        is_value = i > 0 and arguments[i - 1].startswith("--") and "=" not in arguments[i - 1]
        if equals and is_secret(name):
            shown.append(f"{name}={WITHHELD}")
        else:
            shown.append(WITHHELD if is_value and is_secret(arguments[i - 1]) else argument)
    return shown


def is_secret(name: str) -> bool:
    """Whether a name is that of a secret; counts of tokens are none."""
    last = name.lower().rpartition(".")[2].replace("-", "_")
    return any(last == word or last.endswith(f"_{word}") or last == f"{word}s" for word in SECRET)


def _shown(name: str, value: Any) -> str:
    if is_secret(name) and value:
        return WITHHELD
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")[:MAX_VALUE]


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object of a small file; None where there is none that can be read: the page then says what it lacks."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
