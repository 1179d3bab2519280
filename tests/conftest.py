"""Options, and resources that many tests share."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

# measured: faster than two on small machines, and bitwise stable; before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
# what a child may not be given that has no use for it: it must stand there before the first of them is started
os.environ["EGRC_TESTS_TOKEN"] = "c0ffee"

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the long loops")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # first, so that no worker is left alone with one at the end
    items.sort(key=lambda item: "long_file" not in item.keywords)
    if not config.getoption("--full"):
        skip = pytest.mark.skip(reason="long loop: run with --full")
        for item in items:
            if "full" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _forks() -> Iterator[None]:
    """What tests start by `testing.forked`, and servers, are forked from one process that has imported everything."""
    from egrc_mega.testing.forked import forking

    with forking():
        yield


@pytest.fixture
def true_processes() -> Iterator[None]:
    """For a test that looks at parents and command lines: what it starts is no fork."""
    from egrc_mega.testing import forked

    with forked.true_processes():
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The miniature's base model, as shipped."""
    return ROOT / "egrc_mega" / "miniature" / "assets" / "base"


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def world_of_one() -> Iterator[None]:
    """Process groups for this process alone."""
    from egrc_mega.policy import distributed
    from egrc_mega.sections.policy import MegatronSection

    distributed.initialize(MegatronSection(), timeout_s=60)
    yield
    distributed.finalize()
