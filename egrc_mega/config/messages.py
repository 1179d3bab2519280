"""The errors that name a field, as the sources have them, so that the reference can say what is refused and why."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
FOUND = "…"
"""Stands in a message where a run says what it has found."""
HEAD = re.compile(r"^(?:stages\.…\.)?([a-z0-9_]+(?:\.[a-z0-9_]+)*(?:, [a-z0-9_.]+)*): \S")
"""Field, or fields, at the start of a message."""
PREFIXES = {"config/check_loss.py": "loss.", "convert/parallel.py": "megatron.", "training/preflight.py": "megatron."}
"""Files whose messages name fields of this section without saying so; who prints them adds it."""


@cache
def texts(file: Path) -> tuple[str, ...]:
    """Every text of a source file but docstrings, in order; what is put into a text when it is made is `…`."""
    return tuple(_texts_in(ast.parse(file.read_text(encoding="utf-8"))))


def _texts_in(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        text = _text(child)
        if text is None:
            yield from _texts_in(child)
        else:
            yield text


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else FOUND for part in node.values)
    return None


def messages_of_fields(names: set[str]) -> Mapping[str, list[str]]:
    """Dotted name (of a stage without `stages.LABEL.`) -> the messages that begin with it, each once."""
    found: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        if place.startswith(("testing/", "methods/", "report/", "bench/", "diagnosis/", "miniature/")):
            continue
        for name, message in _messages_in(file, PREFIXES.get(place, ""), names):
            if message not in found.setdefault(name, []):
                found[name].append(message)
    return found


def messages_of_method(file: Path, names: set[str]) -> list[str]:
    """What a method refuses of its own fields, as its file says it."""
    return [message for _name, message in _messages_in(file, "", names)]


def _messages_in(file: Path, prefix: str, names: set[str]) -> Iterator[tuple[str, str]]:
    for text in texts(file):
        head = HEAD.match(text)
        if head is None or len(text.split()) < 4:
            continue
        first, *others = head[1].split(", ")
        for start in ("", prefix):
            if start + first in names:
                parent = f"{start}{first}".rpartition(".")[0]
                said = text if text.startswith("stages.") else start + text
                yield from ((name, said) for name in [start + first, *_beside(others, parent, names)])
                break


def _beside(others: list[str], parent: str, names: set[str]) -> Iterator[str]:
    """More fields of one head: `megatron.exp_avg_dtype, exp_avg_sq_dtype`."""
    for other in others:
        for name in (other, f"{parent}.{other}"):
            if name in names:
                yield name
                break
