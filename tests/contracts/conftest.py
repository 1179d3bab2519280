"""The servers that must keep the contract: the embedded one and the scripted fake, which passes on to it what is not
scripted; and SGLang's with EGRC_CONTRACT_SERVER=sglang.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from egrc_mega.rollout.start.process import embedded_server, start_server
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.tiny_model import write_tiny_qwen2

TINY = {"eos_token_id": 25, "max_position_embeddings": 1024}
SERVER = os.environ.get("EGRC_CONTRACT_SERVER", "embedded")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_server: also on the fake that makes its answers up; needs no model")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "started" in metafunc.fixturenames:
        kinds = ["sglang"] if SERVER == "sglang" else ["embedded", "fake"]
        if SERVER != "sglang" and metafunc.definition.get_closest_marker("every_server"):
            kinds.append("scripted")
        metafunc.parametrize("started", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def model_a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("models") / "a", seed=1, **TINY)


@pytest.fixture(scope="session")
def model_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("models") / "b", seed=2, **TINY)


@pytest.fixture(scope="session")
def process(model_a: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    if SERVER == "sglang":
        # the tiny models have no tokenizer
        section = RolloutSection(server="sglang", max_batch_size=64, sglang_args=("--skip-tokenizer-init",))
        child = start_server(section, model_a, number=0, weight_version="a", log=log)
    else:
        child = embedded_server(model_a, port=0, weight_version="a", max_batch_size=256, log=log)
    try:
        yield child.wait_until_ready(240)
    finally:
        child.stop()


@pytest.fixture(scope="session")
def started(process: str, request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param in ("fake", "scripted"):
        # the first passes on what it is not told to spoil, the second makes its answers up
        with FakeServer("a", upstream=process if request.param == "fake" else None) as fake:
            yield fake.url
    else:
        yield process


@pytest.fixture
def server(started: str, model_a: Path) -> str:
    """URL of a server that runs, unpaused, with the weights of model_a under the version `a`."""
    from egrc_mega.testing.http import call

    assert call(started + "/abort_request", {"abort_all": True})[0] == 200
    assert call(started + "/continue_generation", {})[0] == 200
    body = {"model_path": str(model_a), "weight_version": "a"}
    assert call(started + "/update_weights_from_disk", body)[0] == 200
    return started
