"""`egrc export`: the best step of a run, which retention keeps, or another by its number; with the very weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.checkpoint.pointers import BEST, point
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.convert import conversion
from egrc_mega.errors import RunError
from egrc_mega.launch.export_step import export_step
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2

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


def test_a_step_that_the_run_removes_while_it_is_exported_leaves_nothing_and_that_is_told(
    run: tuple[Path, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run[0], tmp_path / "run")
    convert = conversion.megatron_to_hf

    def prune_first(opened: Any, *arguments: Any, **named: Any) -> None:
        shutil.rmtree(opened.path)
        convert(opened, *arguments, **named)

    monkeypatch.setattr(conversion, "megatron_to_hf", prune_first)
    with pytest.raises(RunError, match=r"--step 4: the run goes on, and has removed step_000004 meanwhile; give"):
        export_step(tmp_path / "run", "4", tmp_path / "out", print)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_step_that_is_not_there_is_refused_with_those_that_are(run: tuple[Path, object], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--step 2: .* has no step_000002; there are step_000001, step_000004"):
        export_step(run[0], "2", None, print)
    with pytest.raises(RunError, match="holds no checkpoints"):
        export_step(tmp_path, "best", None, print)
    (tmp_path / "checkpoints" / "step_000003").mkdir(parents=True)
    with pytest.raises(RunError, match=r"--step best: .* names none; set evaluation\.best, or give one of step_000003"):
        export_step(tmp_path, "best", None, print)
