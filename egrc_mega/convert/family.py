"""What a model family must say about itself: its sizes in megatron-core's words, and its table of names.

One table serves import, export and weight sync, so they cannot disagree. A rule pairs one megatron parameter with the
Hugging Face tensors it is made of; `kind` says how they are joined and how tensor parallelism splits the result.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from egrc_mega.errors import ModelError


class Kind(StrEnum):
    """How a megatron parameter is made of Hugging Face tensors, and which dimension tensor parallelism splits."""

    REPLICATED = "replicated"
    """The same tensor on every rank."""
    VOCAB = "vocab"
    """Rows are tokens: padded to the tensor-parallel size, split on dim 0."""
    COLUMN = "column"
    """Split on dim 0."""
    ROW = "row"
    """Split on dim 1."""
    GATED = "gated"
    """[gate; up] on each rank: both split on dim 0, then stacked."""
    QKV = "qkv"
    """For each query group its query heads, its key, its value; groups split on dim 0."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`megatron` and `hf` may hold `{layer}`, the global layer number."""

    megatron: str
    hf: tuple[str, ...]
    kind: Kind

    @property
    def is_per_layer(self) -> bool:
        """True when the rule stands for one parameter in every layer."""
        return "{layer}" in self.megatron


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A checkpoint's sizes and table, read from its config.json."""

    rules: tuple[Rule, ...]
    num_layers: int
    num_heads: int
    num_query_groups: int
    head_dim: int
    vocab_size: int
    transformer_fields: dict[str, Any]
    """Arguments of megatron's TransformerConfig."""
    model_fields: dict[str, Any]
    """Arguments of megatron's GPTModel."""
    dtype: str
    """The checkpoint's own dtype, e.g. "float32" or "bfloat16"."""

    def padded_vocab_size(self, tensor_parallel_size: int) -> int:
        """Vocabulary rows including padding, a multiple of the tensor-parallel size."""
        return -(-self.vocab_size // tensor_parallel_size) * tensor_parallel_size

    def expanded_rules(self) -> Iterator[Rule]:
        """Every rule with its layer filled in, in the order of the model."""
        for rule in self.rules:
            if not rule.is_per_layer:
                yield rule
                continue
            for layer in range(self.num_layers):
                names = tuple(name.format(layer=layer) for name in rule.hf)
                yield Rule(rule.megatron.format(layer=layer), names, rule.kind)


Family = Callable[[dict[str, Any]], Architecture]


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a Hugging Face folder.

    Raises:
        ModelError: no config.json, unreadable, or a family without a table.
    """
    from egrc_mega.convert.qwen2 import qwen2

    families: dict[str, Family] = {"Qwen2ForCausalLM": qwen2}
    path = folder / "config.json"
    try:
        hf = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"model.path: cannot read {path}: {error}; give a Hugging Face model folder") from error
    names = hf.get("architectures") or []
    if len(names) != 1 or names[0] not in families:
        raise ModelError(f"{path}: architectures is {names}, known are {sorted(families)}")
    return families[names[0]](hf)
