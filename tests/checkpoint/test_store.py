"""Checkpoints: bitwise on reload, never torn, altered ones passed over, old ones pruned.

Not covered: loading under another parallel layout, which is megatron-core's own promise.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.checkpoint import shards
from egrc_mega.checkpoint.store import CheckpointStore, load, load_model, read_state, save_model
from egrc_mega.errors import CheckpointError
from egrc_mega.manifest import HashedWriter, damages
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.policy_worker import ragged_samples, resumed_updates
from egrc_mega.testing.tiny_model import write_tiny_qwen2

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"))


def build(model_path: Path, **megatron: object) -> Policy:
    return Policy(model_path, MegatronSection(**megatron), PolicySection())


def step(policy: Policy) -> None:
    policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3)


def weights(policy: Policy) -> dict[str, bytes]:
    return {name: tensor.float().numpy().tobytes() for name, tensor in policy.export_hf()}


@pytest.fixture(scope="module")
def saved(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A committed step after two updates, and the weights after two more."""
    store = CheckpointStore(tmp_path_factory.mktemp("run") / "checkpoints", keep=2)
    policy = build(model_path)
    for _ in range(2):
        step(policy)
    store.save(2, policy, {"seed": 7, "stage": "compress"})
    for _ in range(2):
        step(policy)
    return store.folder / "step_000002", weights(policy)


def step_names(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.glob("step_*"))


def copy_of(folder: Path, target: Path) -> Path:
    return shutil.copytree(folder, target)


def test_a_reloaded_policy_goes_on_bitwise(saved: tuple[Path, dict[str, bytes]], model_path: Path) -> None:
    path, expected = saved
    policy = build(model_path)
    load(path, policy)
    assert read_state(path) == {"seed": 7, "stage": "compress", "step": 2, "is_stage_end": False}
    for _ in range(2):
        step(policy)
    assert weights(policy) == expected


def test_a_checkpoint_does_not_depend_on_the_distributed_optimizer_being_sharded_alike(
    saved: tuple[Path, dict[str, bytes]], model_path: Path
) -> None:
    path, _expected = saved
    first, second = build(model_path), build(model_path)
    load_model(path, first)
    load(path, second)
    assert weights(first) == weights(second)


def test_a_run_with_interleaved_stages_resumes_bitwise_and_loads_without_them(tmp_path: Path) -> None:
    model = write_tiny_qwen2(tmp_path / "model", num_hidden_layers=6, tie_word_embeddings=False)
    megatron = {"pipeline_model_parallel_size": 3, "virtual_pipeline_model_parallel_size": 2}
    run_on_gloo(resumed_updates, 3, model, megatron, tmp_path)
    undisturbed, resumed = (load_file(tmp_path / f"{name}.safetensors") for name in ("undisturbed", "resumed"))
    assert undisturbed.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in undisturbed.items())
    alone = build(model)
    load(tmp_path / "checkpoints" / "step_000002", alone)
    step(alone)
    for name, tensor in alone.export_hf():
        torch.testing.assert_close(tensor, undisturbed[name], rtol=0, atol=1e-5)


def test_a_committed_step_verifies(saved: tuple[Path, dict[str, bytes]]) -> None:
    assert damages(saved[0]) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "empty"])
def test_every_damage_to_every_file_is_found_and_the_file_is_named(
    saved: tuple[Path, dict[str, bytes]], tmp_path: Path, damage: str
) -> None:
    names = [file.relative_to(saved[0]).as_posix() for file in saved[0].rglob("*") if file.is_file()]
    assert {"manifest.sha256.json", "state.json", ".metadata", "common.pt", "huggingface/config.json"} <= set(names)
    for name in names:
        folder = copy_of(saved[0], tmp_path / name.replace("/", "-").strip("."))
        file, data = folder / name, (folder / name).read_bytes()
        if damage == "flip":
            file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        elif damage == "truncate":
            file.write_bytes(data[:-1])
        elif damage == "empty":
            file.write_bytes(b"")
        else:
            file.unlink()
        problems = damages(folder)
        # a manifest that was altered cannot name itself: it names a file that no longer fits it
        assert problems, name
        assert name in problems[0] or name == "manifest.sha256.json"


def test_resume_passes_over_a_damaged_step_and_a_torn_one(
    saved: tuple[Path, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    good = copy_of(saved[0], store.folder / "step_000002")
    bad = copy_of(saved[0], store.folder / "step_000004")
    copy_of(saved[0], store.folder / "step_000006.tmp")
    (bad / "common.pt").write_bytes(b"x")
    assert store.newest() == good
    assert f"{bad} is passed over: common.pt has 1 bytes" in capsys.readouterr().out


def test_without_a_checkpoint_there_is_no_newest(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none", keep=1).newest() is None


def test_only_the_newest_steps_are_kept(model_path: Path, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    policy = build(model_path)
    for number in (1, 2, 3):
        store.save(number, policy, {})
    assert sorted(path.name for path in store.folder.iterdir()) == ["latest", "step_000002", "step_000003"]
    assert (store.folder / "latest").read_text() == "step_000003"


def test_ends_of_stages_stay_and_leave_room_for_as_many_others(model_path: Path, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    policy = build(model_path)
    for number in range(1, 8):
        store.save(number, policy, {}, is_stage_end=number in (2, 3, 6))
    assert step_names(store) == [f"step_00000{n}" for n in (2, 3, 5, 6, 7)]


def test_a_step_that_is_not_whole_takes_no_place_of_one_that_is(model_path: Path, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    policy = build(model_path)
    for number in (1, 2, 3):
        store.save(number, policy, {})
    (store.folder / "step_000003" / "manifest.sha256.json").unlink()
    store.save(4, policy, {})
    assert step_names(store) == [f"step_00000{n}" for n in (2, 3, 4)]


def test_a_save_removes_what_a_killed_trainer_has_left(model_path: Path, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    (store.folder / "step_000009.tmp").mkdir(parents=True)
    store.save(1, build(model_path), {})
    assert step_names(store) == ["step_000001"]


def test_a_step_that_cannot_be_written_is_an_error_with_its_cause(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)

    def fail(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HashedWriter, "_write_all", fail)
    with pytest.raises(
        CheckpointError, match=r"step_000001\.tmp cannot be written by rank 0: .*No space left"
    ) as found:
        store.save(1, build(model_path), {})
    assert "\n" not in str(found.value)
    assert store.newest() is None


@pytest.mark.parametrize("number", [0, 1])
def test_one_file_of_several_that_cannot_be_written_is_enough(
    number: int, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, files = shards._write_file, []

    def fail_once(path: Path, *more: Any) -> Any:
        files.append(path)
        if path.name == f"__0_{number}.distcp":
            raise OSError(28, "No space left on device")
        return write(path, *more)

    monkeypatch.setattr(shards, "_write_file", fail_once)
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    with pytest.raises(CheckpointError, match="No space left"):
        store.save(1, build(model_path), {})
    assert len(files) > 1 and store.newest() is None


def test_a_step_that_was_passed_over_is_written_anew(
    saved: tuple[Path, dict[str, bytes]], model_path: Path, tmp_path: Path
) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    altered = copy_of(saved[0], store.folder / "step_000002")
    (altered / "common.pt").write_bytes(b"x")
    (altered / "left over").write_text("")
    store.save(2, build(model_path), {"seed": 8})
    assert store.newest() == altered and read_state(altered)["seed"] == 8
    assert not (altered / "left over").exists()


def test_the_disk_has_a_step_before_it_has_its_name_and_the_name_before_anything_is_pruned(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is promised to survive a loss of power: the order in which things reach the disk."""
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noting_fsync(number: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).relative_to(tmp_path)}")
        fsync(number)

    def noting_rename(path: Path, target: Path) -> Path:
        done.append(f"rename {path.relative_to(tmp_path)}")
        return rename(path, target)

    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    policy = build(model_path)
    store.save(1, policy, {})
    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "rename", noting_rename)
    store.save(2, policy, {})
    partial = "checkpoints/step_000002.tmp"
    renamed, pruned = done.index(f"rename {partial}"), done.index("rename checkpoints/step_000001")
    files = {file.name for file in (store.folder / "step_000002").iterdir() if file.is_file()}
    assert {f"sync {partial}/{name}" for name in files} <= set(done[:renamed])
    pointed = done.index("sync checkpoints/.latest.tmp")
    assert "sync checkpoints" in done[renamed:pointed]
    assert "sync checkpoints" in done[pointed:pruned]


def test_weights_alone_round_trip(model_path: Path, tmp_path: Path) -> None:
    policy = build(model_path)
    step(policy)
    folder = tmp_path / "weights"
    folder.mkdir()
    save_model(folder, policy)
    other = build(model_path)
    load_model(folder, other)
    assert weights(other) == weights(policy)


def test_the_plain_optimizer_reloads_bitwise_too(model_path: Path, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    policy = build(model_path, use_distributed_optimizer=False)
    step(policy)
    store.save(1, policy, {})
    step(policy)
    again = build(model_path, use_distributed_optimizer=False)
    load(store.folder / "step_000001", again)
    step(again)
    assert weights(again) == weights(policy)


def test_a_folder_that_is_no_step_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state\.json"):
        read_state(tmp_path)
