"""One Chromium for all tests of pages, and the runs that several of them show."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from egrc_mega.testing.browser import Browser, find_chromium
from egrc_mega.testing.made_runs import write_hostile_run, write_large_run


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Started once; each test opens pages of its own."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine: the pages were not opened (Debian: apt install chromium)")
    with Browser(program) as running:
        yield running


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every text is an attack."""
    return write_hostile_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 200 steps with 128 rollouts each."""
    return write_large_run(tmp_path_factory.mktemp("large"))
