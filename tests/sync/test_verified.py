"""Servers that cannot say what they hold must not be taken for servers that hold the right weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import ServerClient
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sync.checksums import checksum
from egrc_mega.sync.disk import DiskSync
from egrc_mega.sync.transport import Verified
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.tiny_model import write_tiny_qwen2


@pytest.mark.parametrize(("every", "compared"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (3, [3, 6])])
def test_every_so_many_updates_what_all_servers_hold_is_compared_and_no_other_is(
    every: int, compared: list[int], tmp_path: Path
) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    architecture, state = read_architecture(model), load_file(model / "model.safetensors")
    asked: list[int] = []
    published: list[str] = []

    def checksums() -> dict[str, Any]:
        asked.append(len(published))
        return {}

    fleet: Any = SimpleNamespace(num_ranks=lambda: [1], checksums=checksums)
    transport: Any = SimpleNamespace(publish=lambda _tensors, _architecture, _dtype, version: published.append(version))
    sync = Verified(transport, fleet, every, "cpu")
    for number in range(1, 7):
        sync.publish(iter(state.items()), architecture, torch.float32, f"v{number}")
    assert published == [f"v{number}" for number in range(1, 7)]
    assert asked == compared


def test_the_first_server_that_differs_is_named_whichever_it_is(tmp_path: Path) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    architecture, state = read_architecture(model), load_file(model / "model.safetensors")
    right = {name: checksum(tensor) for name, tensor in state.items()}
    wrong = right | {"model.norm.weight": "0" * 16}
    transport: Any = SimpleNamespace(publish=lambda tensors, *_more: list(tensors))

    def publish(*servers: dict[str, str]) -> None:
        held = {f"http://{n}": [ranks] for n, ranks in enumerate(servers)}
        fleet: Any = SimpleNamespace(num_ranks=lambda: [1] * len(servers), checksums=lambda: held)
        Verified(transport, fleet, 1, "cpu").publish(iter(state.items()), architecture, torch.float32, "v1")

    publish(right, right)
    for servers, name in (((wrong, right), "http://0"), ((right, wrong), "http://1")):
        with pytest.raises(RolloutError, match=rf"{name} does not serve weights v1 as they are: .*model\.norm\.weight"):
            publish(*servers)


def test_what_each_server_holds_stands_under_its_own_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def checksums(self: ServerClient, timeout_s: float) -> list[dict[str, str]]:
        assert timeout_s == 77.0
        return [{"address": self.url}]

    monkeypatch.setattr(ServerClient, "checksums", checksums)
    with FakeServer() as one, FakeServer() as two:
        section = RolloutSection(server="external", urls=(one.url, two.url), update_timeout_s=77.0)
        with Fleet.start(section, tmp_path, "v0", tmp_path) as fleet:
            assert fleet.checksums() == {url: [{"address": url}] for url in (one.url, two.url)}


def test_a_server_without_checksums_is_refused_with_the_field_and_the_remedy(tmp_path: Path) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    architecture, state = read_architecture(model), load_file(model / "model.safetensors")
    tensors = iter([(name, state[name]) for entry in architecture.entries() for name in entry.hf])
    with FakeServer() as fake:
        section = RolloutSection(server="external", urls=(fake.url,))
        with Fleet.start(section, model, "v0", tmp_path) as fleet:
            sync = Verified(DiskSync(tmp_path / "weights", model, fleet), fleet, 1, "cpu")
            with pytest.raises(RolloutError) as caught:
                sync.publish(tensors, architecture, torch.float32, "v1")
    text = str(caught.value)
    assert text.startswith(f"sync.verify_every: 1, but {fake.url} refused checksums with 404")
    assert "or set it to 0" in text
