"""What a model family says about itself: its sizes in megatron-core's words, and its table of names.

One table serves import, export and weight sync, so they cannot disagree. A rule pairs one megatron parameter with the
Hugging Face tensors it is made of, and gives their shapes; `kind` says how they are joined and how tensor parallelism
splits the result.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """How a megatron parameter is made of Hugging Face tensors, and which dimension tensor parallelism splits."""

    REPLICATED = "replicated"
    """The same tensor on every rank."""
    VOCAB = "vocab"
    """Rows are tokens: padded to the tensor-parallel size, split on dim 0."""
    ROW = "row"
    """Split on dim 1."""
    GATED = "gated"
    """[gate; up] on each rank: both split on dim 0, then stacked."""
    QKV = "qkv"
    """For each query group its query heads, its key, its value; split on dim 0."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a config.json says, or leaves to its family's default in transformers."""

    value: Any
    origin: str
    """The field, e.g. "rope_parameters.rope_theta", or "transformers' default"."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table. Names may hold `{layer}`, the global layer number, and `{expert}`, the global expert."""

    megatron: str
    """The name in megatron's sharded checkpoints, with the layer's and the expert's number in their places."""
    hf: Mapping[str, str]
    """Hugging Face name -> shape in words, e.g. "vocab hidden"; see `Architecture.dimensions`."""
    kind: Kind


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter: a rule at one layer and one expert."""

    name: str
    """As in `Rule.megatron`, filled in."""
    key: str
    """The key of megatron's checkpoints, where layers and experts are stacked: the name without their numbers."""
    layer_key: str
    """The key where only experts are stacked, as newer megatron versions write it."""
    index: tuple[int, ...]
    """Where the parameter stands on the stacked axes: (), (layer,) or (layer, expert)."""
    stack: tuple[int, ...]
    """The lengths of those axes."""
    hf: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    """Of the Hugging Face tensors."""
    kind: Kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole parameter, vocabulary not padded: Hugging Face tensors are joined on dim 0."""
        return (sum(shape[0] for shape in self.shapes), *self.shapes[0][1:])

    @property
    def is_expert(self) -> bool:
        """True for the parameters that expert parallelism spreads."""
        return len(self.index) == 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A checkpoint's sizes and table, read from its config.json."""

    rules: tuple[Rule, ...]
    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_query_groups: int
    head_dim: int
    vocab_size: int
    num_experts: int = 0
    """0: a dense model."""
    expert_ffn_size: int = 0
    tied: bool
    """The output layer is the embedding."""
    transformer_fields: dict[str, Any]
    """Arguments of megatron's TransformerConfig."""
    model_fields: dict[str, Any]
    """Arguments of megatron's GPTModel."""
    dtype: str | None
    """The dtype that config.json states, e.g. "bfloat16"."""
    eos_token_ids: tuple[int, ...] = ()
    """Ids that config.json names as ends of a response, ascending."""
    record: Mapping[str, Statement] = field(default_factory=dict)
    """Everything that was read of config.json, by its names there, with the place that each value comes from."""

    @property
    def dimensions(self) -> dict[str, int]:
        """The words of the rules' shapes."""
        return {
            "vocab": self.vocab_size,
            "hidden": self.hidden_size,
            "ffn": self.ffn_size,
            "query": self.num_heads * self.head_dim,
            "key_value": self.num_query_groups * self.head_dim,
            "head_dim": self.head_dim,
            "experts": self.num_experts,
            "expert_ffn": self.expert_ffn_size,
        }

    def padded_vocab_size(self, tensor_parallel_size: int) -> int:
        """Vocabulary rows including padding, a multiple of the tensor-parallel size."""
        return -(-self.vocab_size // tensor_parallel_size) * tensor_parallel_size

    def entries(self) -> Iterator[Entry]:
        """Every parameter of the model, layer by layer."""
        before, per_layer, after = _by_place(self.rules)
        for rule in before:
            yield self._entry(rule)
        for layer in range(self.num_layers):
            for rule in per_layer:
                if "{expert}" not in rule.megatron:
                    yield self._entry(rule, layer)
                    continue
                for expert in range(self.num_experts):
                    yield self._entry(rule, layer, expert)
        for rule in after:
            yield self._entry(rule)

    def hf_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every Hugging Face tensor, in the table's order."""
        for entry in self.entries():
            yield from zip(entry.hf, entry.shapes, strict=True)

    def _entry(self, rule: Rule, *index: int) -> Entry:
        numbers = dict(zip(("layer", "expert"), index, strict=False))
        dimensions = self.dimensions
        return Entry(
            name=rule.megatron.format(**numbers),
            key=rule.megatron.replace("{layer}.", "").replace("{expert}.", ""),
            layer_key=rule.megatron.replace("{expert}.", "").format(**numbers),
            index=index,
            stack=(self.num_layers, self.num_experts)[: len(index)],
            hf=tuple(name.format(**numbers) for name in rule.hf),
            shapes=tuple(tuple(dimensions[word] for word in shape.split()) for shape in rule.hf.values()),
            kind=rule.kind,
        )


def _by_place(rules: tuple[Rule, ...]) -> tuple[list[Rule], list[Rule], list[Rule]]:
    """Rules before, in and after the layers."""
    inside = [i for i, rule in enumerate(rules) if "{layer}" in rule.megatron]
    first, last = inside[0], inside[-1] + 1
    return list(rules[:first]), list(rules[first:last]), list(rules[last:])
