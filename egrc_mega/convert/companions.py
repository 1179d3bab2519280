"""What belongs to a model beside its weights, and travels with them: never code, never a file of somebody else's."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from egrc_mega.convert.trust import file_problem
from egrc_mega.errors import ModelError
from egrc_mega.json_file import read_object
from egrc_mega.manifest import MANIFEST

TRAVELS = re.compile(
    r".*\.(json|jinja|txt|model|tiktoken)"
    r"|(licen[cs]e|copying|copyright|notice|readme|authors|use_policy|usage_policy|acceptable_use|terms|.*_terms).*"
    r"|tokenizer\.model\..*|vocab\.bpe",
    re.IGNORECASE,
)
"""Tokenizer, chat template, generation config, licence and terms of use, whatever their letters' case."""
STAYS = re.compile(
    rf".*\.index\.json|{re.escape(MANIFEST)}"
    r"|.*\.(py|pyc|so|sh|bin|pt|pth|ckpt|pkl|pickle|safetensors|gguf|onnx|h5|msgpack|npz)",
    re.IGNORECASE,
)
"""Code, weights in other forms, and what is written anew."""
FOLDERS = {"additional_chat_templates": re.compile(r".*\.jinja"), "licenses": re.compile(r".*")}
"""Subfolders of which files travel, by their names in small letters."""
POINTS_TO_CODE = "auto_map"
"""Field that names classes in the folder's own code."""


def companions(source: Path) -> list[str]:
    """Names, relative to the folder, of the files that travel; folders of such names do not.

    Raises:
        ModelError: one of them is no regular file of the folder's own.
    """
    found = sorted(_named(source))
    problems = [f"{source / name}: {problem}" for name in found if (problem := file_problem(source, name))]
    if problems:
        raise ModelError("\n".join(problems))
    return found


def _named(source: Path) -> Iterator[str]:
    for path in source.iterdir():
        if path.is_dir():
            wanted = FOLDERS.get(path.name.lower())
            inside = path.iterdir() if wanted and not path.is_symlink() else ()
            yield from (
                f"{path.name}/{other.name}"
                for other in inside
                if wanted and wanted.fullmatch(other.name) and not STAYS.fullmatch(other.name) and not other.is_dir()
            )
        elif TRAVELS.fullmatch(path.name) and not STAYS.fullmatch(path.name):
            yield path.name


def companion_bytes(source: Path) -> int:
    """How much room the files that travel need."""
    return sum((source / name).stat().st_size for name in companions(source))


def left_out(source: Path) -> list[str]:
    """What a conversion changes about the companions, a line for each file."""
    return [
        f"{name}: {POINTS_TO_CODE} is left out, for code does not travel"
        for name in companions(source)
        if name.endswith("_config.json") or name == "config.json"
        if POINTS_TO_CODE in _read(source / name)
    ]


def copy_companions(source: Path, target: Path, dtype: torch.dtype | None = None) -> None:
    """Copy what belongs to a model beside its weights; config.json then states `dtype`, where that is given.

    Raises:
        ModelError: one of the files is not the folder's own, or no JSON where it must be.
    """
    for name in companions(source):
        copy = target / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, copy)
        if (name.endswith("_config.json") or name == "config.json") and POINTS_TO_CODE in (content := _read(copy)):
            del content[POINTS_TO_CODE]
            _write(copy, content)
    if dtype is None:
        return
    config, stated = _read(target / "config.json"), str(dtype).removeprefix("torch.")
    keys = [key for key in ("dtype", "torch_dtype") if config.get(key) is not None] or ["dtype"]
    if any(config.get(key) != stated for key in keys):
        _write(target / "config.json", config | dict.fromkeys(keys, stated))


def _read(path: Path) -> dict[str, object]:
    try:
        return read_object(path)
    except ValueError as error:
        raise ModelError(f"{path}: {error}; mend or delete it") from error


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
