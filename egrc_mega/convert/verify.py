"""Compares two checkpoints of any format: what their config.json says, then tensor by tensor and bit by bit."""

from dataclasses import dataclass

import torch

from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_folder import Advance
from egrc_mega.convert.known_fields import words
from egrc_mega.convert.source import Source, as_bits, check_source, same_bits

COMPUTES_NOTHING = words("dtype eos_token_id max_position_embeddings sliding_window use_sliding_window")
"""Of the record; what else it holds decides what a model computes."""
SEEN_IN_SHAPES = words(
    "hidden_size intermediate_size moe_intermediate_size num_experts num_hidden_layers tie_word_embeddings vocab_size"
)
"""Where they differ, so do names or shapes of tensors, which say more."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found."""

    num_tensors: int
    """Compared and equal before the first difference."""
    difference: str | None
    """The first difference, naming the tensor; None: equal."""


def compare(a: Source, b: Source, advance: Advance = lambda _count: None) -> Comparison:
    """Compare records, then Hugging Face tensors, so that formats, layouts and padding do not matter.

    Stops at a difference.

    Raises:
        ModelError: one of them is damaged or incomplete.
    """
    for source in (a, b):
        check_source(source, any_dtype=True)
    shapes_a, shapes_b = dict(a.architecture.hf_shapes()), dict(b.architecture.hf_shapes())
    for name in sorted(shapes_a.keys() | shapes_b.keys()):
        x, y = shapes_a.get(name), shapes_b.get(name)
        if x != y:
            return Comparison(0, f"{name}: {_shape(x)} in {a.path}, {_shape(y)} in {b.path}")
    if told := _told_otherwise(a.architecture, b.architecture):
        return Comparison(0, told)
    count = 0
    for entry in a.architecture.entries():
        for name, first, second in zip(entry.hf, a.tensors(entry), b.tensors(entry), strict=True):
            if not same_bits(first, second):
                return Comparison(count, f"{name}: {_first_difference(first, second)}")
            advance(first.nbytes)
            count += 1
    return Comparison(count, None)


def _told_otherwise(a: Architecture, b: Architecture) -> str | None:
    """The first statement in which the records differ, of those that decide what is computed."""
    for name in sorted((a.record.keys() | b.record.keys()) - COMPUTES_NOTHING - SEEN_IN_SHAPES):
        x, y = a.record.get(name), b.record.get(name)
        if (x and x.value) != (y and y.value):
            told = (f"{one.value!r} ({one.origin})" if one else "absent" for one in (x, y))
            return f"config.json: {name} is {' and '.join(told)}"
    return None


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _first_difference(x: torch.Tensor, y: torch.Tensor) -> str:
    if x.dtype != y.dtype:
        return f"dtype {x.dtype} and {y.dtype}"
    different = (as_bits(x) != as_bits(y)).flatten()
    where = int(different.int().argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(where), x.shape)]
    largest = float((x.float() - y.float()).abs().max())
    values = f"{float(x.flatten()[where]):.9g} and {float(y.flatten()[where]):.9g}"
    return f"{values} at {place}; {int(different.sum())} of {x.numel()} values differ, by at most {largest:.3g}"
