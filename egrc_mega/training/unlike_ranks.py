"""Ranks that were started with unlike code, settings, packages or data find out before anything else happens.

On one machine they can hardly differ; on several one forgotten copy is enough, and then nothing fails: gradients of
unlike losses are summed. So every rank states what it has, all statements are compared, and whoever differs from rank 0
is named on every rank.
"""

import hashlib
import json
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import egrc_kernels

import egrc_mega
from egrc_mega.config.check import data_files
from egrc_mega.config.config import Config
from egrc_mega.errors import ConfigError
from egrc_mega.policy import distributed
from egrc_mega.run_folder import package_versions

HOST = "host"
REMEDIES = {
    "code": "give every node the same revision of egrc_mega",
    "package": "install the versions of scripts/constraints.txt on every node",
    "config": "start every node with the same configuration files and the same --set",
    "data": "copy the file anew, or give all nodes one that they share",
}
"""What mends a difference, by the first word of a statement's name."""
SHOWN = 5
"""Differences that an error tells; more say nothing new."""
ABSENT = "nothing"
PATTERNS = ("*.py", "*.json", "*.j2")
"""Files of a package that decide what it computes and shows."""


def refuse_unlike_ranks(config: Config) -> None:
    """Compare what the ranks have. Collective; one rank alone agrees with itself and reads nothing.

    Raises:
        ConfigError: on every rank, when one of them differs from rank 0.
    """
    if distributed.size() == 1:
        return
    statements = [json.loads(text) for text in distributed.gather_texts(json.dumps(statement(config)))]
    found = list(differences(statements))
    if found:
        more = [f"{len(found) - SHOWN} more differences"] if len(found) > SHOWN else []
        raise ConfigError("\n".join([*found[:SHOWN], *more]))


def statement(config: Config) -> dict[str, str]:
    """What this rank has: name -> version, value or SHA-256."""
    found = {HOST: socket.gethostname()}
    folders = [Path(file).parent for package in (egrc_mega, egrc_kernels) if (file := package.__file__)]
    plugins = [Path(name) for name in config.plugins if name.endswith(".py")]
    found["code"] = _hash_of_sources(folders, plugins)
    found |= {f"package {name}": version or ABSENT for name, version in package_versions().items()}
    found["package python"] = platform.python_version()
    found |= {f"config {name}": value for name, value in _leaves(config.to_dict())}
    return found | {f"data {name}": _hash_of_file(path) for name, path in data_files(config).items()}


def differences(statements: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A line for each thing in which a rank differs from rank 0, with the first such rank, both values and a remedy."""
    first = statements[0]
    names = dict.fromkeys(name for each in statements for name in each if name != HOST)
    for name in names:
        values = [each.get(name, ABSENT) for each in statements]
        others = [rank for rank, value in enumerate(values) if value != values[0]]
        if others:
            rank = others[0]
            more = f" (and {len(others) - 1} more ranks)" if len(others) > 1 else ""
            yield (
                f"the ranks disagree about {_subject(name)}: rank 0 on {first[HOST]} has {values[0]}, "
                f"rank {rank} on {statements[rank][HOST]} has {values[rank]}{more}; {REMEDIES[name.split()[0]]}"
            )


def _subject(name: str) -> str:
    kind, _, thing = name.partition(" ")
    return {"code": "the code of egrc_mega (SHA-256)", "data": f"the file {thing} (SHA-256)"}.get(kind, thing)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and JSON of every value that has no parts; empty dicts and lists are such values."""
    parts = dict(enumerate(value)) if isinstance(value, list) else value
    if isinstance(parts, dict) and parts:
        for key, part in parts.items():
            yield from _leaves(part, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(value)


def _hash_of_sources(folders: Sequence[Path], files: Sequence[Path]) -> str:
    """Of what is in the files and how they are called, wherever the folders lie."""
    digest = hashlib.sha256()
    for folder in folders:
        sources = {file for pattern in PATTERNS for file in folder.rglob(pattern)}
        for file in sorted(sources):
            _add(digest, file.relative_to(folder), file)
    for file in files:
        _add(digest, Path(file.name), file)
    return digest.hexdigest()


def _add(digest: Any, name: Path, file: Path) -> None:
    content = file.read_bytes()
    digest.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
