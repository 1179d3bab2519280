"""Optimizer state on the host between steps, and the deterministic switch: bitwise the run without them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from egrc_mega.checkpoint.store import CheckpointStore, load
from egrc_mega.policy import determinism
from egrc_mega.policy.determinism import make_deterministic
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2

pytestmark = pytest.mark.usefixtures("world_of_one")
SECTIONS = [
    {"bf16": True, "use_distributed_optimizer": True},
    {"bf16": True, "use_distributed_optimizer": False},
    {"bf16": False, "use_distributed_optimizer": True},
    {"bf16": False, "use_distributed_optimizer": False},
]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"))


def updated(policy: Policy, times: int) -> dict[str, torch.Tensor]:
    for _ in range(times):
        policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3)
    return {name: tensor.clone() for name, tensor in policy.export_hf()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


@pytest.mark.parametrize("section", SECTIONS)
def test_offloading_changes_no_bit_and_keeps_the_state_on_the_host(model_path: Path, section: dict) -> None:
    megatron = MegatronSection(**section)
    plain = Policy(model_path, megatron, PolicySection())
    offloaded = Policy(model_path, megatron, PolicySection(offload_optimizer=True))
    assert_equal(updated(plain, 3), updated(offloaded, 3))
    host = offloaded.optimizer_on_host
    assert host is not None
    # two moments for each weight, and a master for each that is not float32 already
    assert len(host.buffers) == (3 if section["bf16"] else 2) * len(list(offloaded.pieces[0].parameters()))
    places = {tensor.data_ptr() for tensor in host.buffers.values()}
    assert {tensor.data_ptr() for _name, tensor in host._tensors()} == places
    with host.on_device():
        assert not places & {tensor.data_ptr() for _name, tensor in host._tensors()}


@pytest.mark.parametrize("section", [SECTIONS[0], SECTIONS[3]])
def test_an_offloaded_run_resumes_bitwise(model_path: Path, tmp_path: Path, section: dict) -> None:
    def build() -> Policy:
        return Policy(model_path, MegatronSection(**section), PolicySection(offload_optimizer=True))

    first = build()
    updated(first, 2)
    CheckpointStore(tmp_path, keep=1).save(2, first, {})
    second = build()
    load(tmp_path / "step_000002", second)
    second_host = second.optimizer_on_host
    assert second_host is not None
    places = {tensor.data_ptr() for tensor in second_host.buffers.values()}
    assert {tensor.data_ptr() for _name, tensor in second_host._tensors()} == places
    assert_equal(updated(first, 1), updated(second, 1))


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in determinism.VARIABLES:
        monkeypatch.setenv(name, "")
    make_deterministic()
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_the_deterministic_switch_trains_and_changes_nothing_on_a_cpu(
    model_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = updated(Policy(model_path, MegatronSection(), PolicySection()), 2)
    request.getfixturevalue("deterministic")
    assert torch.are_deterministic_algorithms_enabled()
    policy = Policy(model_path, MegatronSection(), PolicySection())
    assert policy.config.deterministic_mode
    torch.testing.assert_close(updated(policy, 2), expected, rtol=0, atol=1e-6)
    again = Policy(model_path, MegatronSection(), PolicySection())
    assert_equal(updated(again, 2), dict(policy.export_hf()))
