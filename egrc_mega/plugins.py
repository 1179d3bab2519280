"""Loads methods, rewards, graders and data sources from outside the package, by module name or by file."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from egrc_mega.errors import ConfigError


def load_plugins(names: Sequence[str]) -> list[str]:
    """Import each plugin, once in a process, and return the modules' names as classes know them.

    A name that ends in `.py` is a file, anything else a module that this Python can import.

    Raises:
        ConfigError: a plugin cannot be found or fails while it is imported.
    """
    return [_load(name).__name__ for name in names]


def _load(name: str) -> ModuleType:
    try:
        return _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"plugins: {name} cannot be imported: {type(error).__name__}: {error}; mend the file, or give "
            f"the path of another, or the name of a module that is installed"
        ) from error


def _load_file(path: Path) -> ModuleType:
    """A file is imported under a name made from its path and content, so that a changed file is a new module."""
    if not path.is_file():
        raise ConfigError(f"plugins: {path} is no file; give the path of a Python file, or a module's name")
    digest = hashlib.blake2b(str(path.resolve()).encode() + path.read_bytes(), digest_size=6).hexdigest()
    name = f"egrc_plugin_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
