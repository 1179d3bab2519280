"""The dry pass: before a byte is written, shapes prove that every tensor is produced exactly once and fits.

Each function returns problems, one line for each; nothing is raised, so that a user sees all of them at once.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch

from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_folder import DTYPES, TensorInfo

HEAD = "lm_head.weight"
IGNORED = re.compile(r".*\brotary_emb\.inv_freq")
"""Buffers that older versions of transformers saved, and later ones compute: no reader takes them from the file."""


def table_problems(architecture: Architecture) -> Iterator[str]:
    """Names that the family's table produces twice: a mistake in the family's file."""
    entries = list(architecture.entries())
    for what, names in (
        ("megatron", [entry.name for entry in entries]),
        ("Hugging Face", [name for entry in entries for name in entry.hf]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield f"the family's table produces the {what} name {name} {count} times"


def hf_problems(architecture: Architecture, infos: Mapping[str, TensorInfo], *, any_dtype: bool) -> Iterator[str]:
    """Tensors of a Hugging Face folder that are missing, left over, of another shape or dtype than config.json says.

    `any_dtype`: a conversion was asked for, so dtypes may differ as long as they are known.
    """
    expected = dict(architecture.hf_shapes())
    for name in sorted(expected.keys() - infos.keys()):
        yield f"{name} is missing{_hint(architecture) if name == HEAD else ''}"
    stated = architecture.dtype or most_common_dtype(info.dtype for info in infos.values())
    for name, info in infos.items():
        if IGNORED.fullmatch(name):
            continue
        # a tied folder may carry its head again; the values are compared when they are read
        shape = expected.get("model.embed_tokens.weight" if architecture.tied and name == HEAD else name)
        if shape is None:
            yield f"{info.file}: {name} is in no rule of the family's table"
        elif info.shape != shape:
            yield f"{info.file}: {name} has shape {list(info.shape)}, config.json says {list(shape)}"
        dtype = DTYPES.get(info.dtype)
        if dtype is None:
            yield f"{info.file}: {name} has dtype {info.dtype}, known are {sorted(DTYPES)}; unpack quantised weights"
        elif not any_dtype and str(dtype).removeprefix("torch.") != str(stated).removeprefix("torch."):
            yield f"{info.file}: {name} has dtype {info.dtype}, config.json says {stated}; convert with --dtype"


def _hint(architecture: Architecture) -> str:
    """Why a head is expected."""
    told = architecture.record.get("tie_word_embeddings")
    if told and told.origin == "tie_word_embeddings":
        return "; config.json says tie_word_embeddings is false"
    return "; config.json does not state tie_word_embeddings, and transformers' default is false"


def most_common_dtype(names: Iterable[str]) -> torch.dtype:
    """The dtype of most tensors, by safetensors' names; float32 when none is known."""
    known = Counter(name for name in names if name in DTYPES).most_common(1)
    return DTYPES[known[0][0] if known else "F32"]
