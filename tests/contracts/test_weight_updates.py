"""Weights that travel without a disk, to any server that keeps the contract: sessions, groups, buckets, checksums."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from egrc_mega.sync.checksums import Checksums
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.ipc import Handles
from egrc_mega.sync.spool import Spool
from egrc_mega.testing.http import call
from egrc_mega.types import Completion, RolloutRequest, Sampling, token_array

IS_EMBEDDED = os.environ.get("EGRC_CONTRACT_SERVER", "embedded") == "embedded"
BUCKET_BYTES = 4096  # the tiny model's tensors need several


def carriers() -> list:
    yes = pytest.mark.skipif(IS_EMBEDDED, reason="the embedded server takes no pickles")
    return [
        pytest.param(lambda: Broadcast("gloo", flatten=False), id="distributed"),
        pytest.param(lambda: Broadcast("gloo", flatten=True), id="distributed, flattened"),
        pytest.param(lambda: Handles("cpu"), id="ipc by value", marks=yes),
    ]


@pytest.fixture
def fleet(server: str, model_a: Path, tmp_path: Path) -> Iterator[Fleet]:
    section = RolloutSection(server="external", urls=(server,), request_timeout_s=60, update_timeout_s=30)
    with Fleet.start(section, model_a, "a", tmp_path) as attached:
        yield attached


def requests(count: int, tokens: int) -> list[RolloutRequest]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=tokens, stop_token_ids=())
    prompt_ids = token_array([1, 5, 9, 12])
    return [
        RolloutRequest(rid=f"r{i:03d}", prompt_id="p", prompt_ids=prompt_ids, sampling=sampling, seed=7 + i)
        for i in range(count)
    ]


def generate(fleet: Fleet) -> Completion:
    return fleet.generate(requests(1, tokens=12))[0]


def publish(fleet: Fleet, carrier: object, model: Path, version: str, dtype: torch.dtype = torch.float32) -> None:
    tensors = load_file(model / "model.safetensors")
    StreamSync(Spool(BUCKET_BYTES), carrier, fleet).publish(  # type: ignore[arg-type]
        iter(tensors.items()), read_architecture(model), dtype, version
    )


@pytest.mark.parametrize("carrier", carriers())
def test_what_a_carrier_brings_is_what_a_folder_brings(carrier, fleet: Fleet, model_a: Path, model_b: Path) -> None:
    fleet.update_weights(FolderWeights(model_b, "from-disk"))
    expected = generate(fleet)
    fleet.update_weights(FolderWeights(model_a, "back"))
    before = generate(fleet)
    carrier = carrier()
    publish(fleet, carrier, model_b, "b1")
    found = generate(fleet)
    assert found.output_ids.tolist() == expected.output_ids.tolist() != before.output_ids.tolist()
    assert abs(found.logprobs - expected.logprobs).max() <= 1e-5
    assert [span.version for span in found.weight_versions] == ["b1"]
    publish(fleet, carrier, model_a, "a2")  # over the same connections
    assert generate(fleet).output_ids.tolist() == before.output_ids.tolist()
    assert call(fleet.servers[0].client.url + "/model_info")[1]["weight_version"] == "a2"


def num_running(server: str) -> int:
    return sum(int(load["num_running_reqs"]) for load in call(server + "/v1/loads")[1]["loads"])


def test_an_update_of_running_requests_gives_spans_that_cover_them(server: str, fleet: Fleet, model_b: Path) -> None:
    asked = requests(200, tokens=240)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fleet.generate, asked)
        deadline = time.monotonic() + 120
        while not num_running(server):
            assert time.monotonic() < deadline, "nothing is generated"
            if running.done():  # before we could look; an error is raised here
                assert len(running.result()) == len(asked)
                running = pool.submit(fleet.generate, asked)
        publish(fleet, Broadcast("gloo", flatten=False), model_b, "b")
        found = running.result(120)
    spans = [completion.weight_versions for completion in found if len(completion.weight_versions) == 2]
    assert spans, "every response ended before the update"
    for first, second in spans:
        assert (first.version, second.version) == ("a", "b")
        assert 0 == first.start < first.end == second.start < second.end <= 240


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checksums_agree_after_an_update_and_name_the_first_parameter_that_differs(
    dtype: torch.dtype, fleet: Fleet, model_b: Path
) -> None:
    expected = Checksums(read_architecture(model_b), dtype, fleet.num_ranks(), "cpu")
    tensors = load_file(model_b / "model.safetensors")
    assert len(list(expected.watch(iter(tensors.items())))) == len(tensors)
    publish(fleet, Broadcast("gloo", flatten=False), model_b, "b", dtype)
    served = next(iter(fleet.checksums().values()))
    assert expected.difference(served) is None

    other = Checksums(read_architecture(model_b), dtype, fleet.num_ranks(), "cpu")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] *= 1.01
    for _ in other.watch(iter(tensors.items())):
        pass
    difference = other.difference(served)
    assert difference is not None
    name = "up_proj" if IS_EMBEDDED else "gate_up_proj"
    assert difference.startswith(f"model.layers.1.mlp.{name}.weight on rank 0 is ")


@pytest.mark.every_server
def test_updates_outside_a_session_and_sessions_in_sessions_are_refused(server: str) -> None:
    bucket = {"names": ["x"], "dtypes": ["float32"], "shapes": [[1]], "group_name": "nobody"}
    status, reply = call(server + "/update_weights_from_distributed", bucket)
    assert (status, reply["success"]) == (400, False)
    assert "between begin_weight_update() and end_weight_update()" in reply["message"]
    assert call(server + "/begin_weight_update", {})[0] == 200
    status, reply = call(server + "/begin_weight_update", {})
    assert status == 400 and "already open" in reply["message"]
    assert call(server + "/end_weight_update", {})[0] == 200
    status, reply = call(server + "/end_weight_update", {})
    assert status == 400 and "no weight-update session is open" in reply["message"]
    status, reply = call(server + "/destroy_weights_update_group", {"group_name": "nobody"})
    assert status == 400 and "does not exist" in reply["message"]


def test_a_gathering_that_fails_is_the_error_and_the_servers_do_not_serve_the_half(
    fleet: Fleet, model_a: Path, model_b: Path, tmp_path: Path
) -> None:
    tensors = load_file(model_b / "model.safetensors")
    url = fleet.servers[0].client.url

    def served_version() -> str:
        return call(url + "/model_info")[1]["weight_version"]

    def breaking():
        for number, item in enumerate(tensors.items()):
            if number == 6:
                deadline = time.monotonic() + 30
                while served_version() != "half-incomplete":
                    assert time.monotonic() < deadline, "no bucket arrived"
                raise ValueError("a rank is gone")
            yield item

    sync = StreamSync(Spool(BUCKET_BYTES), Broadcast("gloo", flatten=False), fleet)
    with pytest.raises(ValueError, match="a rank is gone"):
        sync.publish(breaking(), read_architecture(model_b), torch.float32, "half")
    assert served_version() == "half-incomplete"
    with pytest.raises(RolloutError, match="weights 'half' were not gathered whole: ValueError"):
        generate(fleet)
    # whole weights heal it, in another run
    with Fleet.start(fleet.section, model_a, "a", tmp_path) as heir:
        publish(heir, Broadcast("gloo", flatten=False), model_b, "whole")
        assert [span.version for span in generate(heir).weight_versions] == ["whole"]


def test_a_server_that_a_killed_run_left_paused_amid_an_update_is_taken_over(
    server: str, model_a: Path, model_b: Path, tmp_path: Path
) -> None:
    assert call(server + "/pause_generation", {"mode": "retract"})[0] == 200
    assert call(server + "/begin_weight_update", {})[0] == 200
    section = RolloutSection(server="external", urls=(server,), request_timeout_s=60, update_timeout_s=30)
    with Fleet.start(section, model_a, "a", tmp_path) as fleet:
        publish(fleet, Broadcast("gloo", flatten=False), model_b, "b")
        assert [span.version for span in generate(fleet).weight_versions] == ["b"]


def test_a_fleet_refuses_what_it_cannot_load(fleet: Fleet, model_b: Path) -> None:
    if not IS_EMBEDDED:
        pytest.skip("SGLang takes names that it does not know")
    carrier = Broadcast("gloo", flatten=False)
    sync = StreamSync(Spool(BUCKET_BYTES), carrier, fleet)
    tensors = {"model.unknown": torch.ones(3)}
    with pytest.raises(RolloutError, match=r"model\.unknown is \(3,\), the model has no such tensor"):
        sync.publish(iter(tensors.items()), read_architecture(model_b), torch.float32, "bad")
