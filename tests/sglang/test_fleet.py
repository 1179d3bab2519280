"""A fleet of two real servers of SGLang: killed, stopped, updated, beside one on two devices. On the CPU."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.errors import RolloutError
from egrc_mega.evaluation.fingerprint import fingerprint_of_folder
from egrc_mega.evaluation.records import SHOWN_DIGITS
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.soak.laws import require_no_process
from egrc_mega.sync.buckets import StreamSync
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.spool import Spool
from egrc_mega.sync.transport import Verified
from egrc_mega.testing.http import call
from egrc_mega.testing.runs import events, finish_run, start_run
from egrc_mega.types import Completion, FinishReason, RolloutRequest, Sampling, token_array

pytestmark = pytest.mark.long_file

PROMPT_IDS = tuple(range(5, 14))


def requests(count: int, tokens: int = 60) -> list[RolloutRequest]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=tokens, stop_token_ids=())
    prompts = [token_array([*PROMPT_IDS, i]) for i in range(4)]
    return [
        RolloutRequest(rid=f"r{i:03d}", prompt_id=f"p{i % 4}", prompt_ids=prompts[i % 4], sampling=sampling, seed=i)
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def fleet(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    section = RolloutSection(server="sglang", num_servers=2, max_batch_size=32)
    with Fleet.start(section, base_model, "v0", tmp_path_factory.mktemp("logs")) as running:
        yield running


def tokens(completions: list[Completion]) -> list[list[int]]:
    return [completion.output_ids.tolist() for completion in completions]


def num_parted(found: list[Completion], expected: list[Completion]) -> int:
    """Requests whose tokens differ. SGLang rounds by batch, so one near-tie may fall otherwise; lost seeds part all."""
    return sum(a != b for a, b in zip(tokens(found), tokens(expected), strict=True))


def one_by_one(fleet: Fleet, asked: list[RolloutRequest]) -> list[Completion]:
    """Every request alone in its batch: SGLang's rounding depends on what else arrived in time for the same prefill."""
    return [fleet.generate([request])[0] for request in asked]


def test_a_server_killed_mid_generation_is_replaced_and_every_request_answered(fleet: Fleet, base_model: Path) -> None:
    expected = fleet.generate(requests(48, tokens=200))
    fleet.update_weights(FolderWeights(base_model, "v1"))
    guard = psutil.Process(fleet.servers[1].process.process.pid)  # type: ignore[union-attr]
    family = guard.children(recursive=True)
    launcher = guard.children()[0]
    threading.Timer(0.5, os.kill, (launcher.pid, signal.SIGKILL)).start()
    completions = fleet.generate(requests(48, tokens=200))
    assert num_parted(completions, expected) <= 1
    assert {span.version for c in completions for span in c.weight_versions} == {"v1"}
    assert fleet.take_stats()["lost_requests"] > 1  # so a seed that got lost on the way would show above
    fleet.update_weights(FolderWeights(base_model, "v2"))  # waits for the lost one to be back
    assert all(server.is_serving for server in fleet.servers)
    assert fleet.take_stats()["server_restarts"] == 1
    assert num_parted(fleet.generate(requests(48, tokens=200)), expected) <= 1
    require_no_process(family, 20)


def publish_and_verify(fleet: Fleet, model: Path) -> None:
    """By broadcast to every rank of every server; then by checksum of every parameter."""
    tensors = list(load_file(model / "model.safetensors").items())
    transport = Verified(StreamSync(Spool(2**18), Broadcast("gloo", flatten=True), fleet), fleet, 1, "cpu")
    transport.publish(iter(tensors), read_architecture(model), torch.float32, "v9")


def test_two_servers_take_weights_in_one_group(fleet: Fleet, base_model: Path) -> None:
    publish_and_verify(fleet, base_model)
    found = fleet.generate(requests(8))
    assert {span.version for c in found for span in c.weight_versions} == {"v9"}


def test_a_stopped_server_is_replaced_long_before_its_requests_deadline(
    fleet: Fleet, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egrc_mega.rollout.client.CONTROL_TIMEOUT_S", 10.0)
    expected = fleet.generate(requests(16))
    guard = psutil.Process(fleet.servers[0].process.process.pid)  # type: ignore[union-attr]
    family = guard.children(recursive=True)
    patient = fleet.section
    fleet.section = patient.model_copy(update={"silence_timeout_s": 20.0})
    for process in family:
        process.suspend()
    restarts = fleet.stats.num_restarts
    assert num_parted(fleet.generate(requests(16)), expected) <= 1
    fleet.update_weights(FolderWeights(base_model, "v10"))  # waits for the stopped one to be back
    assert fleet.stats.num_restarts == restarts + 1
    assert num_parted(fleet.generate(requests(16)), expected) <= 1
    require_no_process(family, 20)
    fleet.section = patient


def test_aborted_requests_come_back_with_what_they_have_and_go_on(fleet: Fleet) -> None:
    asked = requests(24, tokens=200)
    with fleet.stream() as stream:
        stream.add(asked)
        ended = stream.take()
        ended += stream.abort()
        aborted = {c.rid: c for c in ended if c.finish_reason is FinishReason.ABORT}  # type: ignore[union-attr]
        assert len(ended) == 24 and aborted
    begun = {rid: completion for rid, completion in aborted.items() if completion.sampled.any()}
    with fleet.stream() as stream:
        stream.add([request for request in asked if request.rid in begun], begun)
        whole: dict[str, Completion] = {}
        while stream.num_open:
            whole |= {c.rid: c for c in stream.take()}  # type: ignore[union-attr]
    for rid, completion in begun.items():
        assert whole[rid].output_ids[: len(completion.output_ids)].tolist() == completion.output_ids.tolist()
        assert len(whole[rid].output_ids) > len(completion.output_ids)


def test_a_port_in_use_is_one_line_at_once(base_model: Path, tmp_path: Path, free_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        section = RolloutSection(server="sglang", port=free_port)
        with pytest.raises(RolloutError, match=rf"rollout\.port: 127\.0\.0\.1:{free_port} cannot be used"):
            Fleet.start(section, base_model, "v0", tmp_path)


def test_one_server_on_two_devices_with_keys_samples_what_one_device_does(
    fleet: Fleet, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = one_by_one(fleet, requests(8))
    section = RolloutSection(server="sglang", tensor_parallel_size=2, max_batch_size=16)
    monkeypatch.setenv("EGRC_API_KEY", "api-4711-secret")
    monkeypatch.setenv("EGRC_ADMIN_API_KEY", "admin-0815-secret")
    with Fleet.start(section, base_model, "v0", tmp_path) as split:
        url = split.servers[0].client.url
        for path in ("/generate", "/pause_generation", "/update_weights_from_disk"):
            assert call(url + path, {})[0] == 401
        found = one_by_one(split, requests(8))
        publish_and_verify(split, base_model)
        again = one_by_one(split, requests(8))
    assert [c.logprobs.tolist() for c in again] == [c.logprobs.tolist() for c in found]
    assert tokens(found) == tokens(expected)
    for one, other in zip(found, expected, strict=True):
        assert max(abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=True)) <= 1e-4
    log = (tmp_path / "server_0.log").read_text(errors="replace")
    assert "[key]" in log  # it logs its arguments
    assert "secret" not in log


def test_one_server_samples_for_an_asynchronous_run_and_the_other_measures_beside_it(
    fleet: Fleet, root: Path, tmp_path: Path
) -> None:
    """The last test here: the servers end with a run's weights."""
    sampling, spare = (server.client.url for server in fleet.servers)
    stage = {"method": "compress", "steps": 3, "clip_len": 72, "rollout": {"n": 2}, "loss": {"tis_cap": 2}}
    overrides = (
        "rollout.server=external",
        f'rollout.urls=["{sampling}"]',
        "rollout.mode=async",
        "sync.transport=distributed",
        f'evaluation.spare={{"urls": ["{spare}"]}}',
        "evaluation.every=1",
        "evaluation.temperatures=[0.6]",
        "evaluation.num_problems=4",
    )
    finish_run(start_run(root, tmp_path / "run", stages=[stage], overrides=overrides), timeout_s=200)
    steps = events(tmp_path / "run", "step")
    assert [step["weight_version"] for step in steps] == ["v0", "v1", "v2"]
    assert all(step["version_lag_max"] <= 2 for step in steps)
    # later steps may have no token of their own version to compare
    assert 0 < steps[0]["logprob_diff_max"] <= 1e-4
    spans = [span for event in events(tmp_path / "run", "spans") for span in event["spans"]]
    assert {span["thread"] for span in spans if span["name"] == "sync"} >= {"sync"}
    points = orjson.loads((tmp_path / "run" / "evaluation.json").read_bytes())["points"]
    assert [point["step"] for point in points] == [0, 1, 2, 3] and len({point["weights"] for point in points}) == 4
    assert points[-1]["weights"] == fingerprint_of_folder(tmp_path / "run" / "export")
    versions = [call(f"{url}/model_info")[1]["weight_version"] for url in (sampling, spare)]
    assert versions == ["v3", f"measured-3-{points[-1]['weights'][:SHOWN_DIGITS]}"]
    assert not (tmp_path / "run" / "evaluation_weights").exists()
