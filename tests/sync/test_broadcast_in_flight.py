"""Versions that are broadcast from the host's copy while the trainer goes on: what arrives, when, and after a loss."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sync.buckets import StreamSync
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.ipc import Handles
from egrc_mega.sync.publisher import Publisher
from egrc_mega.sync.spool import Bucket, Spool
from egrc_mega.sync.transport import Verified
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.http import call
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import RolloutRequest, Sampling

LONG_S = 60.0
BUCKET_BYTES = 4096


class Held(Broadcast):
    """Sends nothing before it may; `between` runs in front of the third bucket."""

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        super().__init__("gloo", flatten=False)
        self.may_send, self.between, self.num_sent = threading.Event(), between, 0

    async def send(self, bucket: Bucket, label: dict[str, Any], timeout_s: float) -> None:
        assert await asyncio.to_thread(self.may_send.wait, LONG_S)
        if self.num_sent == 2:
            self.between()
        self.num_sent += 1
        await super().send(bucket, label, timeout_s)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"), seed=1)


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, torch.Tensor]:
    """The trainer's, which differ from what servers begin with."""
    return load_file(write_tiny_qwen2(tmp_path / "other", seed=3) / "model.safetensors")


def requests(count: int) -> list[RolloutRequest]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=())
    return [
        RolloutRequest(rid=f"r{i}", prompt_id=f"p{i}", prompt_ids=PROMPT_IDS, sampling=sampling, seed=i)
        for i in range(count)
    ]


def versions_of(fleet: Fleet, count: int) -> set[str]:
    return {span.version for reply in fleet.generate(requests(count)) for span in reply.weight_versions}


def test_what_was_staged_is_what_arrives_whatever_the_trainer_does_to_its_weights_before(
    model: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    carrier = Held()
    with Fleet.start(RolloutSection(start_timeout_s=60), model, "v0", tmp_path) as fleet:
        sync = Verified(StreamSync(Spool(BUCKET_BYTES), carrier, fleet), fleet, 1, "cpu")
        publisher = Publisher(sync, in_flight=True)
        publisher.publish(iter(tensors.items()), read_architecture(model), torch.float32, "v1")
        for tensor in tensors.values():  # the next step's update
            tensor.zero_()
        assert call(fleet.servers[0].client.url + "/model_info")[1]["weight_version"] == "v0"
        publisher.check()
        carrier.may_send.set()
        publisher.settle()  # checksums of what was staged are compared with the server's
        assert carrier.num_sent > 3
        assert versions_of(fleet, 2) == {"v1"}


def test_a_server_lost_amid_a_version_in_flight_costs_time_and_nobody_serves_a_half(
    model: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    section = RolloutSection(num_servers=2, update_timeout_s=10.0, start_timeout_s=60)
    with Fleet.start(section, model, "v0", tmp_path) as fleet:
        process = fleet.servers[1].process
        assert process is not None
        carrier = Held(process.process.kill)
        sync = Verified(StreamSync(Spool(BUCKET_BYTES), carrier, fleet), fleet, 1, "cpu")
        publisher = Publisher(sync, in_flight=True)
        publisher.publish(iter(tensors.items()), read_architecture(model), torch.float32, "v1")
        for tensor in tensors.values():
            tensor.zero_()
        carrier.may_send.set()
        publisher.settle()  # each server's checksums are of the whole version
        assert versions_of(fleet, 8) == {"v1"}
        assert fleet.take_stats()["server_restarts"] == 1


def test_servers_sample_on_while_a_version_in_flight_is_gathered(
    model: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    seen: list[set[str]] = []

    def gathered() -> Iterator[tuple[str, torch.Tensor]]:
        yield from tensors.items()
        seen.append(versions_of(fleet, 1))

    with FakeServer() as fake:
        section = RolloutSection(server="external", urls=(fake.url,))
        with Fleet.start(section, model, "v0", tmp_path) as fleet:
            publisher = Publisher(StreamSync(Spool(BUCKET_BYTES), Handles("cpu"), fleet), in_flight=True)
            publisher.publish(gathered(), read_architecture(model), torch.float32, "v1")
            publisher.settle()
            assert seen == [{"v0"}] and versions_of(fleet, 1) == {"v1"}
