"""Reads YAML that others have written: what would take all time or memory is refused while it is small.

Aliases can make a file of a few lines stand for more values than any memory holds; whoever walks through them never
comes to an end. Configurations, folders of runs and the cards of models are read here, and nowhere else.
"""

from collections.abc import Iterator
from typing import IO, Any

import yaml

UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What `read` raises for a text that is no YAML, or too much of it."""
MAX_VALUES = 10**6
"""With every alias counted as often as it stands: a configuration has some hundreds."""


def read(text: str | IO[str], kind: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is no YAML, nested too deeply, holds itself, or is too large.
    """
    loader = kind(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _size(root, {})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Number of values that a node stands for."""
    if id(node) not in known:
        known[id(node)] = None  # until all of its parts are counted
        known[id(node)] = 1 + sum(_size(part, known) for part in _parts(node))
    found = known[id(node)]
    if found is None:
        raise yaml.YAMLError(f"an alias on line {node.start_mark.line + 1} holds itself")
    if found > MAX_VALUES:
        raise yaml.YAMLError(f"with its aliases it stands for more than {MAX_VALUES} values")
    return found


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
