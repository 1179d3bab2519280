"""One Chromium for all tests of pages."""

from collections.abc import Iterator

import pytest

from egrc_mega.testing.browser import Browser, find_chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Started once; each test opens pages of its own."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine: the pages were not opened (Debian: apt install chromium)")
    with Browser(program) as running:
        yield running
