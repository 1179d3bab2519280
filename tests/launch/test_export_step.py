"""`egrc export`: the best step of a run, which retention keeps, or another by its number; with the very weights."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.checkpoint.pointers import BEST, point
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.cli import convert as convert_command
from egrc_mega.convert import conversion
from egrc_mega.convert import inspect as convert_inspect
from egrc_mega.convert import verify as convert_verify
from egrc_mega.errors import CheckpointError, RunError
from egrc_mega.launch import export_step as module
from egrc_mega.launch.export_step import export_step
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.training import comparison

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, torch.Tensor]]]:
    """Four committed steps, of which the first is the best and one newest stays; the weights of each."""
    base = tmp_path_factory.mktemp("run")
    store = CheckpointStore(base / "checkpoints", 1)
    policy = Policy(write_tiny_qwen2(base / "model"), MegatronSection(), PolicySection())
    weights = {}
    for step in (1, 2, 3, 4):
        policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3)
        weights[step] = {name: tensor.clone() for name, tensor in policy.export_hf()}
        store.save(step, policy, {})
        if step == 1:
            point(store.folder, BEST, step)
    return base, weights


def test_the_best_step_stays_whatever_the_number_of_newest_ones(run: tuple[Path, object]) -> None:
    assert sorted(path.name for path in (run[0] / "checkpoints").glob("step_*")) == ["step_000001", "step_000004"]


@pytest.mark.parametrize(("step", "number"), [("best", 1), ("latest", 4), ("4", 4), ("step_000001", 1)])
def test_a_step_is_exported_with_its_very_weights(
    step: str, number: int, run: tuple[Path, dict[int, dict[str, torch.Tensor]]], tmp_path: Path
) -> None:
    folder = export_step(run[0], step, tmp_path / "out", print)
    found = load_file(folder / "model.safetensors")
    assert found.keys() <= run[1][number].keys()
    assert all(torch.equal(tensor, run[1][number][name]) for name, tensor in found.items())
    assert (folder / "config.json").exists()


REMOVED = r"step_000004 was removed while it was read; of a run that goes on, give a step that stays: the best"


@pytest.mark.parametrize("command", ["export", "convert"])
def test_a_step_that_the_run_removes_before_it_is_read_leaves_nothing_and_that_is_told(
    command: str, run: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    convert = conversion.megatron_to_hf

    def prune_first(opened: Any, *arguments: Any, **named: Any) -> None:
        shutil.rmtree(opened.path)
        convert(opened, *arguments, **named)

    monkeypatch.setattr(conversion, "megatron_to_hf", prune_first)
    with pytest.raises(CheckpointError, match=REMOVED):
        if command == "export":
            export_step(tmp_path / "run", "4", tmp_path / "out", print)
        else:
            convert_command.megatron_to_hf(tmp_path / "run/checkpoints/step_000004", tmp_path / "out", shard_size="5GB")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("home", "name", "is_first"),
    [
        (convert_inspect, "open_source", True),
        (convert_verify, "compare", True),
        (convert_verify, "compare", False),
        (comparison, "compare_logits", True),
        (comparison, "compare_logits", False),
    ],
)
def test_whoever_compares_or_looks_at_a_step_that_the_run_removes_is_told_so(
    home: ModuleType,
    name: str,
    is_first: bool,
    run: tuple[Path, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, other = tmp_path / "run/checkpoints/step_000004", tmp_path / "other"
    shutil.copytree(run[0], tmp_path / "run")
    shutil.copytree(step, other)
    read = getattr(home, name)

    def prune_first(*arguments: Any, **named: Any) -> Any:
        shutil.rmtree(step)
        return read(*arguments, **named)

    monkeypatch.setattr(home, name, prune_first)
    with pytest.raises(CheckpointError, match=REMOVED):
        if home is convert_inspect:
            convert_command.inspect(str(step))
        else:
            convert_command.verify(*((step, other) if is_first else (other, step)), logits=home is comparison)


def test_a_run_that_goes_on_prunes_a_step_under_its_reader_who_is_told_and_leaves_nothing(
    run: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    store = CheckpointStore(tmp_path / "run/checkpoints", 1)
    policy = Policy(run[0] / "model", MegatronSection(), PolicySection())
    told: list[int] = []

    @contextmanager
    def committing(*_what: Any) -> Iterator[Any]:
        """The next step is committed once the first tensor has been read, and this one goes."""

        def advance(count: int) -> None:
            if not told:
                store.save(5, policy, {})
            told.append(count)

        yield advance

    monkeypatch.setattr(module, "byte_progress", committing)
    with pytest.raises(CheckpointError, match=REMOVED):
        export_step(tmp_path / "run", "4", tmp_path / "out", print)
    assert told
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    # the run has noticed nothing
    assert sorted(path.name for path in store.folder.glob("step_*")) == ["step_000001", "step_000005"]
    assert store.newest() == store.folder / "step_000005"


def test_the_newest_step_is_found_though_it_is_committed_while_it_is_looked_for(
    run: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run[0], tmp_path / "run")

    def commit(folder: Path, _name: str) -> str:
        shutil.copytree(folder / "step_000004", folder / "step_000005")
        return "step_000005"

    monkeypatch.setattr(module, "pointed", commit)
    assert export_step(tmp_path / "run", "latest", None, print).name == "export_step_000005"


def test_a_step_that_is_not_there_is_refused_with_those_that_are(run: tuple[Path, object], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--step 2: .* has no step_000002; there are step_000001, step_000004"):
        export_step(run[0], "2", None, print)
    with pytest.raises(RunError, match="holds no checkpoints"):
        export_step(tmp_path, "best", None, print)
    (tmp_path / "checkpoints" / "step_000003").mkdir(parents=True)
    with pytest.raises(RunError, match=r"--step best: .* names none; set evaluation\.best, or give one of step_000003"):
        export_step(tmp_path, "best", None, print)
