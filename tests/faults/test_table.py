"""docs/fault_table.md has all rows, and every test that it names is there."""

import re
from pathlib import Path

import pytest

from egrc_mega.testing.named_tests import missing

OPEN: tuple[int, ...] = ()
"""Rows without a test; this list only shrinks."""


@pytest.fixture(scope="module")
def rows(root: Path) -> dict[int, str]:
    """Number -> the last column."""
    lines = (root / "docs/fault_table.md").read_text().splitlines()
    cells = [re.split(r" \| ", line.strip("| ")) for line in lines if re.match(r"\| \d+ \|", line)]
    assert all(len(each) == 4 for each in cells)
    return {int(each[0]): each[3] for each in cells}


def test_all_thirty_rows_are_there_once_and_in_order(rows: dict[int, str], root: Path) -> None:
    assert list(rows) == list(range(1, 31))
    assert len(re.findall(r"^\| \d+ \|", (root / "docs/fault_table.md").read_text(), re.MULTILINE)) == 30


def test_every_row_names_tests_that_there_are(rows: dict[int, str], root: Path) -> None:
    named = {number: re.findall(r"`([^`]+)`", tests) for number, tests in rows.items()}
    assert [number for number, names in named.items() if not names] == list(OPEN)
    assert [name for names in named.values() for name in names if missing(root / "tests", name)] == []


def test_whatever_has_once_failed_names_tests_that_there_are(root: Path) -> None:
    _, _, second = (root / "docs/fault_table.md").read_text().partition("## What has once failed")
    rows = [
        line.strip("| ").split(" | ") for line in second.splitlines() if line.startswith("| ") and "---" not in line
    ]
    head, *failures = rows
    assert head[-1] == "tests" and len(failures) == 33 and {len(row) for row in rows} == {3}
    named = {what: re.findall(r"`([^`]+)`", tests) for what, _then, tests in failures}
    assert [what for what, names in named.items() if not names] == []
    assert [name for names in named.values() for name in names if missing(root / "tests", name)] == []


def test_what_is_open_says_so(rows: dict[int, str]) -> None:
    assert [number for number, tests in rows.items() if "open" in tests.replace("_open_", "")] == list(OPEN)
