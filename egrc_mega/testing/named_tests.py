"""Knows which tests there are, without importing them: pages that promise something name the tests that hold it."""

import ast
import re
from functools import cache
from pathlib import Path

SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")


@cache
def tests_of(file: Path) -> frozenset[str]:
    """Names of the test functions of a file, without `test_`."""
    tree = ast.parse(file.read_text())
    return frozenset(
        node.name.removeprefix("test_")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def missing(tests: Path, named: str) -> bool:
    """Whether there is no test of this name, e.g. `rollout/test_keys.py: keys_open_what_sglang_opens_with_them`.

    A file's name alone stands for all its tests.
    """
    file, _, name = named.partition(": ")
    path = tests / file
    return not path.is_file() or not tests_of(path) or (bool(name) and name not in tests_of(path))


def sentences(markdown: str) -> list[str]:
    """Of the list items of a page, each in one line, without marks of emphasis."""
    items = re.findall(r"^- (.*(?:\n  .*)*)", markdown, re.MULTILINE)
    return [part for item in items for part in SENTENCE_ENDS.split(" ".join(item.replace("**", "").split()))]
