"""The transport that a configuration names is the one that is built, field by field."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.sections.rollout import SyncSection
from egrc_mega.sync import transport as module
from egrc_mega.sync.buckets import StreamSync
from egrc_mega.sync.disk import DiskSync
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.ipc import Handles
from egrc_mega.sync.transport import Verified, build_transport, check_transport

FLEET: Any = SimpleNamespace()


def config_of(device: str = "cpu", server: str = "sglang", **sync: Any) -> Any:
    return SimpleNamespace(
        sync=SyncSection(**sync),
        rollout=SimpleNamespace(device=device, server=server),
        model=SimpleNamespace(path=Path("model")),
    )


def built(device: str = "cpu", **sync: Any) -> Any:
    return build_transport(config_of(device, **({"verify_every": 0} | sync)), Path("weights"), FLEET)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_shared_folder_is_written_from_the_models_own(device: str) -> None:
    found = built(device, transport="disk")
    assert isinstance(found, DiskSync)
    assert (found.folder, found.model_path, found.servers) == (Path("weights"), Path("model"), FLEET)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl")])
@pytest.mark.parametrize("flatten", [None, False, True])
def test_a_broadcast_goes_over_the_devices_own_backend_and_is_flattened_on_gpus_unless_it_is_said(
    device: str, backend: str, flatten: bool | None
) -> None:
    found = built(device, transport="distributed", flatten=flatten, bucket_mib=3)
    assert isinstance(found, StreamSync) and isinstance(found.carrier, Broadcast)
    is_flat = device == "cuda" if flatten is None else flatten
    assert (found.carrier.backend, found.carrier.flatten) == (backend, is_flat)
    assert (found.spool.bucket_bytes, found.servers) == (3 * 1024 * 1024, FLEET)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_handles_are_of_the_servers_device(device: str) -> None:
    found = built(device, transport="ipc", bucket_mib=2)
    assert isinstance(found.carrier, Handles)
    assert (found.carrier.device, found.spool.bucket_bytes) == (device, 2 * 1024 * 1024)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("transport", ["disk", "distributed", "ipc"])
@pytest.mark.parametrize("every", [0, 1, 5])
def test_whatever_the_transport_is_every_so_many_updates_are_verified_with_the_devices_checksums(
    device: str, transport: str, every: int
) -> None:
    found = built(device, transport=transport, verify_every=every)
    assert isinstance(found, Verified) is (every > 0)
    if every:
        assert (found.every, found.device, found.fleet) == (every, device, FLEET)
        assert type(found.transport) is type(built(device, transport=transport))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("server", ["embedded", "sglang", "external"])
@pytest.mark.parametrize("transport", ["disk", "distributed", "ipc"])
def test_nccl_is_compared_where_a_broadcast_would_need_it_on_both_sides_and_nowhere_else(
    device: str, server: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Path] = []
    monkeypatch.setattr(module, "find_python", lambda rollout: Path(f"/{rollout.server}"))
    monkeypatch.setattr(module, "check_same_nccl", compared.append)
    check_transport(config_of(device, server, transport=transport))
    is_needed = (device, server, transport) == ("cuda", "sglang", "distributed")
    assert compared == ([Path("/sglang")] if is_needed else [])
