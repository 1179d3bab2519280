"""Updates that break in the middle: nothing serves a half, and what is lost comes back whole."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.errors import RolloutError
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sync.buckets import StreamSync
from egrc_mega.sync.distributed import Broadcast, own_address
from egrc_mega.sync.ipc import Handles
from egrc_mega.sync.spool import Spool
from egrc_mega.sync.transport import Verified
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.http import call
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import Completion, RolloutRequest, Sampling

pytestmark = pytest.mark.long_file

BUCKET_BYTES = 4096


def requests(count: int) -> list[RolloutRequest]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=())
    return [
        RolloutRequest(rid=f"r{i:03d}", prompt_id=f"p{i % 2}", prompt_ids=PROMPT_IDS, sampling=sampling, seed=i)
        for i in range(count)
    ]


def tokens(completions: list[Completion]) -> list[list[int]]:
    return [completion.output_ids.tolist() for completion in completions]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"), seed=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("other"), seed=3)


@pytest.fixture
def fleet(model: Path, tmp_path: Path) -> Iterator[Fleet]:
    section = RolloutSection(num_servers=2, update_timeout_s=3.0, start_timeout_s=60)
    with Fleet.start(section, model, "v0", tmp_path) as running:
        yield running


def publish(fleet: Fleet, model: Path, version: str, at_tensor: int = -1, then=lambda: None) -> None:
    def gathered():
        for number, item in enumerate(load_file(model / "model.safetensors").items()):
            if number == at_tensor:
                then()
            yield item

    sync = StreamSync(Spool(BUCKET_BYTES), Broadcast("gloo", flatten=False), fleet)
    sync.publish(gathered(), read_architecture(model), torch.float32, version)


@pytest.mark.parametrize("number_of_signal", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_server_lost_amid_an_update_costs_time_and_the_other_serves_no_half(
    number_of_signal: int, fleet: Fleet, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egrc_mega.rollout.client.CONTROL_TIMEOUT_S", 2.0)
    monkeypatch.setattr("egrc_mega.rollout.start.process.STOP_TIMEOUT_S", 1.0)
    process = fleet.servers[1].process
    assert process is not None
    pid = process.process.pid
    publish(fleet, other, "v1", at_tensor=9, then=lambda: os.kill(pid, number_of_signal))
    found = fleet.generate(requests(16))
    assert {span.version for c in found for span in c.weight_versions} == {"v1"}
    assert fleet.take_stats()["server_restarts"] == 1
    fleet.update_weights(FolderWeights(other, "v2"))
    assert tokens(fleet.generate(requests(16))) == tokens(found)


def test_the_only_server_comes_back_over_a_new_connection(model: Path, other: Path, tmp_path: Path) -> None:
    section = RolloutSection(update_timeout_s=10.0, start_timeout_s=60)
    with Fleet.start(section, model, "v0", tmp_path) as fleet:
        publish(fleet, other, "v1")
        expected = tokens(fleet.generate(requests(8)))
        process = fleet.servers[0].process
        assert process is not None
        process.process.kill()
        assert tokens(fleet.generate(requests(8))) == expected
        assert fleet.take_stats()["server_restarts"] == 1


def attach(fakes: list[FakeServer], tmp_path: Path, **fields: object) -> Fleet:
    section = RolloutSection(server="external", urls=tuple(fake.url for fake in fakes), **fields)
    fleet = Fleet.start(section, tmp_path, "v0", tmp_path)
    for fake in fakes:
        fake.calls.clear()
    return fleet


def hand_over(fleet: Fleet, model: Path, version: str, bucket_bytes: int = BUCKET_BYTES) -> None:
    tensors = load_file(model / "model.safetensors")
    sync = StreamSync(Spool(bucket_bytes), Handles("cpu"), fleet)
    sync.publish(iter(tensors.items()), read_architecture(model), torch.float32, version)


def test_the_last_bucket_and_no_other_names_the_version_and_empties_the_prefix_cache(
    model: Path, tmp_path: Path
) -> None:
    with FakeServer() as one, FakeServer() as two, attach([one, two], tmp_path) as fleet:
        hand_over(fleet, model, "v1")
        for fake in (one, two):
            labels = [(bucket["weight_version"], bucket["flush_cache"]) for bucket in fake.updates]
            assert len(labels) > 3
            assert labels == [("v1-incomplete", False)] * (len(labels) - 1) + [("v1", True)]
            buckets = ["/update_weights_from_tensor"] * len(labels)
            session = ["/begin_weight_update", *buckets, "/end_weight_update"]
            assert fake.calls == ["/pause_generation", *session, "/continue_generation"]


def test_a_folder_is_loaded_by_its_whole_path_under_its_version_and_empties_the_prefix_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with FakeServer() as fake, attach([fake], tmp_path) as fleet:
        fleet.update_weights(FolderWeights(Path("weights"), "v1"))
    folder = {"model_path": str(tmp_path / "weights"), "weight_version": "v1", "flush_cache": True}
    assert fake.updates == [folder]
    assert fake.calls == ["/pause_generation", "/update_weights_from_disk", "/continue_generation"]


def test_a_half_applied_update_is_called_incomplete_and_done_again_whole(model: Path, tmp_path: Path) -> None:
    with FakeServer() as one, FakeServer() as two, attach([one, two], tmp_path) as fleet:
        two.refused_buckets = [3]
        hand_over(fleet, model, "v1")
        assert one.version == two.version == "v1"
        whole = one.versions.index("v1") + 1
        assert set(one.versions[: whole - 1]) == {"v1-incomplete"}
        # of the update that broke one took three buckets and two took two; then both took all
        assert two.versions == ["v1-incomplete"] * (whole - 2) + ["v1"]
        assert all(server.is_serving for server in fleet.servers)


def test_whoever_took_the_last_bucket_of_an_update_that_broke_loads_it_again(model: Path, tmp_path: Path) -> None:
    with FakeServer() as one, FakeServer() as two, attach([one, two], tmp_path) as fleet:
        two.refused_buckets = [1]
        hand_over(fleet, model, "v1", bucket_bytes=2**30)
        # it called itself v1 with the session still open
        assert (one.versions, two.versions) == (["v1", "v1"], ["v1"])
        assert not one.has_session and not two.has_session


@pytest.mark.parametrize("number", [0, 1])
def test_a_server_that_died_unseen_is_brought_back_before_its_parameters_are_compared(
    number: int, fleet: Fleet, other: Path
) -> None:
    process = fleet.servers[number].process
    assert process is not None
    process.process.kill()
    process.process.wait()
    tensors = load_file(other / "model.safetensors")
    sync = StreamSync(Spool(BUCKET_BYTES), Broadcast("gloo", flatten=False), fleet)
    Verified(sync, fleet, every=1, device="cpu").publish(
        iter(tensors.items()), read_architecture(other), torch.float32, "v1"
    )
    assert fleet.take_stats()["server_restarts"] == 1
    assert {span.version for c in fleet.generate(requests(4)) for span in c.weight_versions} == {"v1"}


def test_a_server_that_never_takes_a_bucket_stops_the_run_with_its_reason(model: Path, tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_restarts=1) as fleet:
        fake.refused_buckets = list(range(2, 100))
        with pytest.raises(RolloutError, match=r"refused update weights from tensor with 400: .*out of memory"):
            hand_over(fleet, model, "v1")
        assert not fleet.servers[0].is_serving
        assert fake.version == "v1-incomplete"


def test_requests_wait_while_every_server_loads(fleet: Fleet, model: Path, other: Path) -> None:
    before = tokens(fleet.generate(requests(8)))
    found: list[Completion] = []
    asking = threading.Thread(target=lambda: found.extend(fleet.generate(requests(8))))

    def ask() -> None:
        for server in fleet.servers:  # the first bucket is on its way
            while call(server.client.url + "/model_info")[1]["weight_version"] != "v1-incomplete":
                time.sleep(0.01)
        asking.start()
        asking.join(0.2)
        assert not found

    publish(fleet, other, "v1", at_tensor=9, then=ask)
    asking.join(30)
    assert {span.version for c in found for span in c.weight_versions} == {"v1"}
    assert tokens(found) != before


def test_the_memory_of_a_version_is_used_again_by_the_next(model: Path, other: Path) -> None:
    spool = Spool(BUCKET_BYTES)
    for path in (model, other):
        spool.clear()
        spool.fill(iter(load_file(path / "model.safetensors").items()), torch.float32)
        places = {name: tensor.data_ptr() for bucket in spool._buckets for name, tensor in bucket.tensors}
        if path == model:
            first = places
    assert places == first
    sizes = [sum(tensor.nbytes for _name, tensor in bucket.tensors) for bucket in spool._buckets]
    assert len(sizes) > 3
    assert all(size <= BUCKET_BYTES for size, b in zip(sizes, spool._buckets, strict=True) if len(b.tensors) > 1)


def test_servers_on_this_machine_find_us_on_the_loopback() -> None:
    assert own_address("http://127.0.0.1:30000") == own_address("http://localhost:1") == "127.0.0.1"
