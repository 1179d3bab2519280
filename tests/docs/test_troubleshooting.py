"""What docs/troubleshooting.md quotes is what the program says."""

import re
from pathlib import Path

import pytest

from egrc_mega import errors
from egrc_mega.config.messages import FOUND, PACKAGE, texts

ROW = re.compile(r"^\| (\d+) \| (.*?) \| (.*?) \| (.*) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/troubleshooting.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(page: str) -> list[tuple[str, str, str, str]]:
    """Number, symptom, message and remedy of each symptom."""
    return ROW.findall(page.partition("## Exit codes")[0])


@pytest.fixture(scope="module")
def said() -> str:
    """Everything that the program can print, one text after the other."""
    files = sorted(file for file in PACKAGE.rglob("*.py") if "testing" not in file.relative_to(PACKAGE).parts)
    return "\n".join(" ".join(text.split()) for file in files for text in texts(file))


def test_every_quoted_message_is_in_the_sources(rows: list[tuple[str, str, str, str]], said: str) -> None:
    quoted = [(number, text) for number, _s, message, _r in rows for text in re.findall(r"`(.+?)`", message)]
    assert len(dict(quoted)) == len(rows)
    assert [(number, text) for number, text in quoted if text.removesuffix(FOUND) not in said] == []


def test_there_are_at_least_fifty_and_each_has_a_remedy(rows: list[tuple[str, str, str, str]]) -> None:
    assert [int(number) for number, *_rest in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 50
    assert all(len(remedy.split()) > 2 for *_rest, remedy in rows)


def test_the_exit_codes_are_those_of_the_errors(page: str) -> None:
    table = page.partition("## Exit codes")[2]
    told = {int(code) for code in re.findall(r"\| (\d+) \|", table)}
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.EgrcError)]
    assert told == {each.exit_code for each in classes} - {1} | {130}
