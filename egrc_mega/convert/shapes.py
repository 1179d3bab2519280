"""Shapes of whole parameters and how tensor parallelism splits them: no tensors, so that planners need no torch."""

from egrc_mega.convert.family import Architecture, Entry, Kind


def padded_shape(entry: Entry, architecture: Architecture, tensor_parallel_size: int) -> tuple[int, ...]:
    """Shape of the whole parameter with the rows that pad the vocabulary."""
    if entry.kind is not Kind.VOCAB:
        return entry.shape
    return (architecture.padded_vocab_size(tensor_parallel_size), *entry.shape[1:])


def split_dimension(entry: Entry) -> int | None:
    """The dimension that tensor parallelism splits; None: every rank holds all of it."""
    return {Kind.REPLICATED: None, Kind.ROW: 1}.get(entry.kind, 0)
