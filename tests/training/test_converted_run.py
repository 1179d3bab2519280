"""A training run at TP2 x PP2 leaves checkpoints that convert to Hugging Face and back into the trainer."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf
from egrc_mega.convert.hf_logits import hf_logits
from egrc_mega.convert.source import find_iteration
from egrc_mega.testing import forked
from egrc_mega.testing.convert_worker import PROMPTS, Job, run_jobs
from egrc_mega.testing.gloo import run_on_gloo

pytestmark = pytest.mark.long_file

SETTINGS = (
    "megatron.tensor_model_parallel_size=2",
    "megatron.pipeline_model_parallel_size=2",
    "rollout.prompts_per_step=4",
    "stages.compress.steps=1",
    "stages.explore.steps=1",
    "stages.compress.rollout.n=4",
    "stages.explore.rollout.n=4",
    "evaluation.num_problems=4",
    "evaluation.max_new_tokens=20",
    "grading.num_workers=1",
)
LAYOUTS: dict[str, dict[str, int]] = {
    "tp1": {},
    "tp2": {"tensor_model_parallel_size": 2},
    "pp2": {"pipeline_model_parallel_size": 2},
}
VOCAB = 40


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "-c", str(root / "configs/quickstart.yaml")]
    for setting in (f"run.dir={folder}", *SETTINGS):
        command += ["--set", setting]
    result = forked.run([*command, "--nproc-per-node", "4"], timeout_s=170)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def hf(run: Path) -> Path:
    """The last step, with its optimizer state, as a Hugging Face folder."""
    megatron_to_hf(run / "checkpoints/step_000002", run / "hf")
    return run / "hf"


def test_a_runs_checkpoint_becomes_the_folder_that_the_run_exported(run: Path, hf: Path, base_model: Path) -> None:
    exported = {file.name: file.read_bytes() for file in (run / "export").iterdir()}
    assert {file.name: file.read_bytes() for file in hf.iterdir()} == exported
    base = load_file(base_model / "model.safetensors")
    trained = load_file(hf / "model.safetensors")
    assert all(not torch.equal(base[name], trained[name]) for name in base)


def test_a_converted_checkpoint_is_loaded_by_the_trainer_at_any_layout(
    hf: Path, base_model: Path, tmp_path: Path
) -> None:
    hf_to_megatron(hf, tmp_path / "megatron")
    checkpoint = find_iteration(tmp_path / "megatron")
    assert checkpoint is not None
    prompts = [[token % VOCAB for token in prompt] for prompt in PROMPTS]
    expected = hf_logits(hf, prompts)
    assert float((expected - hf_logits(base_model, prompts)).abs().max()) > 1e-3
    for ranks in (1, 2):
        jobs = [
            Job(source=hf, other=base_model, checkpoint=checkpoint, out=tmp_path / name, megatron=layout, vocab=VOCAB)
            for name, layout in LAYOUTS.items()
            if max(layout.values(), default=1) == ranks
        ]
        run_on_gloo(run_jobs, ranks, jobs)
    for name in LAYOUTS:
        for way, logits in load_file(tmp_path / name / "logits.safetensors").items():
            assert float((logits - expected).abs().max()) <= 1e-5, (name, way)
