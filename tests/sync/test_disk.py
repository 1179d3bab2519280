"""Weight sync over a folder, and that it, the export of a run and the converter are one code."""

from pathlib import Path

import pytest
import torch

from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.convert.conversion import megatron_to_hf
from egrc_mega.convert.hf_folder import write_folder
from egrc_mega.policy.engine import Policy
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.sync.disk import DiskSync
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_model

pytestmark = pytest.mark.usefixtures("world_of_one")


class Servers:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.updates: list[tuple[Path, str]] = []

    def update_weights(self, weights: FolderWeights) -> None:
        assert (weights.path / "model.safetensors").exists()
        # a server that comes back meanwhile loads what it was told before
        assert all((path / "model.safetensors").exists() for path, _version in self.updates[-1:])
        self.updates.append((weights.path, weights.version))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Llama"])
@pytest.mark.parametrize("bf16", [False, True])
def test_weight_sync_export_and_converter_write_the_same_bytes(family: str, bf16: bool, tmp_path: Path) -> None:
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = write_tiny_model(family, tmp_path / "model", vocab_size=41, dtype=dtype)
    policy = Policy(model, MegatronSection(bf16=bf16), PolicySection())
    policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-2)

    DiskSync(tmp_path / "sync", model, Servers()).publish(policy.export_hf(), policy.architecture, policy.dtype, "v1")
    write_folder(
        tmp_path / "export", policy.export_hf(), architecture=policy.architecture, source=model, dtype=policy.dtype
    )
    CheckpointStore(tmp_path / "checkpoints", keep=1).save(1, policy, {})
    megatron_to_hf(tmp_path / "checkpoints/step_000001", tmp_path / "converted")

    synced = contents(tmp_path / "sync/v1")
    assert synced["model.safetensors"] != contents(model)["model.safetensors"]
    assert contents(tmp_path / "export") == synced
    assert contents(tmp_path / "converted") == synced


def test_only_the_version_in_use_stays(tmp_path: Path) -> None:
    model = write_tiny_model("Qwen2", tmp_path / "model")
    policy = Policy(model, MegatronSection(), PolicySection())
    servers = Servers()
    sync = DiskSync(tmp_path / "sync", model, servers)
    for version in ("v0", "v1"):
        sync.publish(policy.export_hf(), policy.architecture, policy.dtype, version)
    assert servers.updates == [(tmp_path / "sync" / version, version) for version in ("v0", "v1")]
    assert [path.name for path in (tmp_path / "sync").iterdir()] == ["v1"]


def test_what_was_not_written_here_stays_and_stops_nothing(tmp_path: Path) -> None:
    model = write_tiny_model("Qwen2", tmp_path / "model")
    policy = Policy(model, MegatronSection(), PolicySection())
    sync = DiskSync(tmp_path / "sync", model, Servers())
    sync.publish(policy.export_hf(), policy.architecture, policy.dtype, "v0")
    (tmp_path / "sync" / ".nfs0000000000000001").write_text("what NFS keeps of a file that somebody has open")
    (tmp_path / "sync" / "mine").mkdir()
    (tmp_path / "sync" / "v7").symlink_to(tmp_path / "model")
    sync.publish(policy.export_hf(), policy.architecture, policy.dtype, "v1")
    assert sorted(path.name for path in (tmp_path / "sync").iterdir()) == [".nfs0000000000000001", "mine", "v1", "v7"]
    assert (model / "model.safetensors").exists()
