"""The models of the recipes at their real size, on the meta device: every parameter is accounted for."""

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
import transformers

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.family import Kind
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.parallel import ParallelLayout, parameters_of_rank
from egrc_mega.convert.presets import PRESETS
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.testing.meta_worker import parameters_by_rank

TP, PP, DP = 2, 2, 2


CASES: list[tuple[str, dict]] = [
    ("deepseek-r1-distill-qwen-7b", {}),
    # an odd vocabulary is padded; tied embeddings have a copy on the last stage
    ("deepseek-r1-distill-qwen-1.5b", {"vocab_size": 151937}),
    ("deepseek-r1-distill-qwen-1.5b", {"tie_word_embeddings": True}),
    ("deepseek-r1-distill-llama-8b", {}),
]
SECTION = MegatronSection(
    tensor_model_parallel_size=TP, pipeline_model_parallel_size=PP, sequence_parallel=True, bf16=True
)


@pytest.fixture(scope="module")
def pretender() -> Iterator[ProcessPoolExecutor]:
    """A process of its own that pretends to be eight ranks."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize(("preset", "changes"), CASES)
def test_the_ranks_of_a_world_hold_the_model_to_the_parameter(
    preset: str, changes: dict, pretender: ProcessPoolExecutor
) -> None:
    fields = PRESETS[preset] | changes
    architecture = architecture_of(HfConfig(fields))
    ranks = pretender.submit(parameters_by_rank, architecture, SECTION, TP * PP * DP).result(timeout=150)
    layout = ParallelLayout.of(SECTION)
    assert [count for _stage, count in ranks] == [parameters_of_rank(architecture, layout, s) for s, _count in ranks]

    config = transformers.AutoConfig.for_model(**fields)
    with torch.device("meta"):
        whole = transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    replicated = sum(math.prod(e.shape) for e in architecture.entries() if e.kind is Kind.REPLICATED)
    embedding = architecture.padded_vocab_size(TP) * architecture.hidden_size
    padding = embedding - architecture.vocab_size * architecture.hidden_size
    # tied: the last stage has a copy of the padded embedding; else both are padded
    extra = padding + embedding if architecture.tied else 2 * padding
    assert sum(count for _stage, count in ranks) == DP * (whole + (TP - 1) * replicated + extra)
