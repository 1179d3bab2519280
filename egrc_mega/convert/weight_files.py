"""One answer to which files hold a folder's weights: the files that every reader takes, or none.

transformers loads `model.safetensors` where there is one and looks at no index then; SGLang and vLLM load every
safetensors file, but those that an index leaves out. Where these differ the folder is refused.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egrc_mega.errors import ModelError
from egrc_mega.json_file import read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
UNFINISHED = ".aria2"
"""Stands beside a file that has its full length already, and zeros where the rest is to come."""


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of a folder that count."""

    names: tuple[str, ...]
    weight_map: dict[str, str] | None
    """Tensor -> file, where there is an index."""


def has_weights(folder: Path) -> bool:
    """Whether anything is there that claims to be weights; what counts of it, if anything does: `weight_files`."""
    return bool(_candidates(folder))


def weight_files(folder: Path) -> WeightFiles:
    """The files that hold the weights of a folder.

    Raises:
        ModelError: there are none, an index is broken or points outside the folder, or there are more files than every
            reader takes; it names all of them.
    """
    found = _candidates(folder)
    if os.path.lexists(folder / ADAPTER):
        raise ModelError(f"{folder}: {ADAPTER} makes an adapter of it; merge it into its base model first")
    if unfinished := sorted(path.name for path in folder.glob(f"*.safetensors{UNFINISHED}")):
        raise ModelError(f"{folder}: {_list(unfinished)}: aria2 has not finished this download; let it, or repeat it")
    if not found:
        raise ModelError(f"model.path: {folder} holds no safetensors; convert the weights first")
    if INDEX not in found:
        if found != [WEIGHTS]:
            raise ModelError(f"{folder}: {_list(found)} without {INDEX}: {_remedy(found)}")
        return WeightFiles((WEIGHTS,), None)
    weight_map = _weight_map(folder / INDEX)
    names = sorted(set(weight_map.values()))
    # files of other names, such as Mistral's consolidated ones, are taken by no reader of an index
    more = [name for name in found if name not in (INDEX, *names) and name.startswith("model")]
    if more or (WEIGHTS in names and len(names) > 1):
        raise ModelError(
            f"{folder}: the index names {_list(names)}, and there {'is' if len(more) == 1 else 'are'} {_list(more)}; "
            f"readers differ in what they take, so leave only the files of one model"
        )
    return WeightFiles(tuple(names), weight_map)


def _candidates(folder: Path) -> list[str]:
    """Names, links to nothing included."""
    files = [path.name for path in folder.glob("*.safetensors")]
    return sorted([*files, *([INDEX] if os.path.lexists(folder / INDEX) else [])])


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map: Any = read_object(index)["weight_map"]
        if not isinstance(weight_map, dict) or not weight_map:
            raise TypeError("weight_map is no object with names in it")
        if strange := [file for file in weight_map.values() if not isinstance(file, str) or not file]:
            raise TypeError(f"weight_map names {strange[0]!r} as a file")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{index}: no index of safetensors: {error!r}; download it again") from error
    outside = [file for file in weight_map.values() if Path(file).name != file or "\0" in file]
    if outside:
        raise ModelError(f"{index}: {outside[0]!r} points outside the folder".replace("'", ""))
    return weight_map


def _remedy(found: list[str]) -> str:
    if WEIGHTS in found:
        return f"readers differ in what they take, so leave only {WEIGHTS}, or only the files of another model"
    return "download the index, or give the one file its name"


def _list(names: list[str]) -> str:
    shown = names if len(names) <= 8 else [*names[:6], f"{len(names) - 7} more", names[-1]]
    return " and ".join(shown) if len(shown) < 3 else f"{', '.join(shown[:-1])} and {shown[-1]}"
