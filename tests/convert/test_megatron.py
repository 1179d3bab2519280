"""Every family through megatron-core itself: converted, loaded at a layout, computed, saved, converted back.

Not covered: Transformer Engine's layer spec, which needs CUDA to be installed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf
from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.convert.hf_logits import hf_logits
from egrc_mega.convert.parallel import ParallelLayout
from egrc_mega.convert.source import find_iteration, same_bits
from egrc_mega.testing import tiny_model
from egrc_mega.testing.convert_worker import PROMPTS, Job, run_jobs
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.tiny_model import write_tiny_model

TP, PP, EP = "tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"
FIRST, LAST = "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"


@dataclass(frozen=True)
class Case:
    """A family with a number of heads and query groups at a layout."""

    family: str
    groups: int
    heads: int
    megatron: tuple[tuple[str, int], ...] = ()
    bf16: bool = False

    @property
    def ranks(self) -> int:
        sizes = dict(self.megatron)
        return sizes.get(TP, 1) * sizes.get(PP, 1) * sizes.get(EP, 1)

    def __str__(self) -> str:
        layout = "-".join(f"{name.replace('_model_parallel_size', '')}{size}" for name, size in self.megatron)
        return f"{self.family}-{self.groups}groups-{layout or 'alone'}{'-bf16' if self.bf16 else ''}"


CASES_OF_FAMILIES = [
    [
        Case(family, 3, 6),
        Case(family, 4, 8, bf16=True),
        Case(family, 4, 8, ((TP, 2),)),
        Case(family, 3, 6, ((PP, 2), (FIRST, 1))),
        Case(family, 4, 8, ((PP, 2), (LAST, 1)), bf16=True),
        Case(family, 3, 6, ((TP, 3),)),
        Case(family, 4, 8, ((PP, 3),)),
        Case(family, 4, 8, ((TP, 4),)),
        Case(family, 2, 4, ((TP, 4),)),
    ]
    for family in tiny_model.FAMILIES
]
IN_SHORT = [case for number, cases in enumerate(CASES_OF_FAMILIES) for case in cases[number % 2 :: 2]] + [
    Case("Qwen3Moe", 4, 8, ((EP, 2),)),
    Case("Qwen3Moe", 2, 4, ((TP, 2), (EP, 2))),
    Case("Llama", 4, 8, ((TP, 2), (PP, 2), (FIRST, 1))),
]
"""Every family in every other layout, and every layout with two or three families."""
CASES = IN_SHORT + [case for cases in CASES_OF_FAMILIES for case in cases if case not in IN_SHORT]


def parameters(cases: list[Case]) -> list[Any]:
    return [case if case in IN_SHORT else pytest.param(case, marks=pytest.mark.full) for case in cases]


def write_model(case: Case, folder: Path, seed: int) -> Path:
    return write_tiny_model(
        case.family,
        folder,
        seed=seed,
        dtype=torch.bfloat16 if case.bf16 else torch.float32,
        shard_size="60KB",
        vocab_size=509,
        hidden_size=48,
        intermediate_size=60,
        num_hidden_layers=3,
        num_attention_heads=case.heads,
        num_key_value_heads=case.groups,
    )


# models on up to four ranks, all of them in the first test's setup
pytestmark = [pytest.mark.long_file, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[Case, Job]:
    """Every case, run: those of the same number of ranks share their processes."""
    base = tmp_path_factory.mktemp("megatron")
    cases = CASES if request.config.getoption("--full") else IN_SHORT
    jobs = {}
    for case in cases:
        shape = base / f"{case.family}-{case.groups}-{case.bf16}"
        layout = ParallelLayout(**dict(case.megatron))
        if not shape.exists():
            write_model(case, shape / "source", seed=1)
            write_model(case, shape / "other", seed=2)
            hf_to_megatron(shape / "source", shape / "converted", parallel=layout, max_shard_bytes=100_000)
        job = Job(
            source=shape / "source",
            other=shape / "other",
            checkpoint=find_iteration(shape / "converted"),
            out=base / str(case),
            megatron=dict(case.megatron) | {"bf16": case.bf16},
        )
        jobs[case] = job
    for ranks in sorted({case.ranks for case in cases}):
        run_on_gloo(run_jobs, ranks, [job for case, job in jobs.items() if case.ranks == ranks], timeout_s=300)
    return jobs


def assert_same_tensors(a: Path, b: Path) -> None:
    first, second = HfReader(a), HfReader(b)
    assert first.names() == second.names()
    assert [name for name in sorted(first.names()) if not same_bits(first.tensor(name), second.tensor(name))] == []


@pytest.mark.parametrize("case", parameters(CASES), ids=str)
def test_a_converted_checkpoint_comes_back_bitwise_from_megatron(
    case: Case, jobs: dict[Case, Job], tmp_path: Path
) -> None:
    job = jobs[case]
    megatron_to_hf(job.checkpoint, tmp_path / "straight")
    assert_same_tensors(tmp_path / "straight", job.source)
    assert_same_tensors(job.out / "exported", job.source)
    megatron_to_hf(job.out / "saved", tmp_path / "saved", model=job.source)
    assert_same_tensors(tmp_path / "saved", job.source)


@pytest.mark.parametrize("case", parameters([case for case in CASES if not case.bf16]), ids=str)
def test_megatron_computes_transformers_logits_on_packed_input(case: Case, jobs: dict[Case, Job]) -> None:
    job = jobs[case]
    expected = hf_logits(job.source, PROMPTS)
    logits = load_file(job.out / "logits.safetensors")
    assert float(expected.abs().max()) > 0.5
    for way, found in logits.items():
        assert float((found - expected).abs().max()) <= 1e-5, way
