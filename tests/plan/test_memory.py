"""Bytes on a GPU: against what one took, and how they change with what they depend on."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from egrc_kernels.linear_logprob import sizes

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.presets import PRESETS
from egrc_mega.plan import memory
from egrc_mega.plan.activations import in_flight, kept_bytes, layer_bytes
from egrc_mega.plan.gpus import GIB, find_gpu
from egrc_mega.plan.head import KEPT, LEAST_BYTES, MOST_BYTES, SHARED_BYTES, affordable, head_bytes
from egrc_mega.plan.memory import (
    RESERVED_BYTES,
    Setting,
    fitting_budget,
    memory_problems,
    rank_memory,
    ranks,
    sync_bytes,
)
from egrc_mega.plan.model_facts import Model
from egrc_mega.plan.serving import DEFAULT_STATIC, server_memory, static_share
from egrc_mega.plan.states import World, optimizer_bytes, reduces_in_buckets
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.sections.rollout import RolloutSection

GPU = find_gpu("h100-80g")


def model(preset: str, **changes: object) -> Model:
    return Model(architecture_of(HfConfig(PRESETS[preset] | changes)), preset)


SMALL, SEVEN = model("deepseek-r1-distill-qwen-1.5b"), model("deepseek-r1-distill-qwen-7b")


def setting(own: Model, num_ranks: int = 1, **section: object) -> Setting:
    world = World(num_ranks, MegatronSection(**({"bf16": True} | section)))
    return Setting(own, world, GPU, offloads_optimizer=False, bucket_bytes=2**28, is_colocated=False)


def peak_gib(root: Path, file: str, name: str) -> float:
    lines = (root / "benchmarks/results" / file).read_text().splitlines()
    return next(row["peak_gib"] for row in map(json.loads, lines) if row["name"] == name)


def test_the_peak_is_what_one_gpu_took(root: Path) -> None:
    """R1-Distill-Qwen-1.5B, one micro-batch of 16384 response tokens, no recomputation.

    An H200 as the code is; an H100, which can afford half as many logits, when the gradient was made from those.
    """
    of_h200 = replace(setting(SMALL), gpu=find_gpu("h200-141g"), makes_logits=False)
    for own, measured in (
        (of_h200, peak_gib(root, "h200/second.jsonl", "ours")),
        (setting(SMALL), peak_gib(root, "h100/second_step.jsonl", "even, all on")),
    ):
        # torch counts what it has handed out: no context, no NCCL, nothing reserved
        planned = rank_memory(own, 0, 16384, 1).phases()["train"] - RESERVED_BYTES
        assert planned / GIB == pytest.approx(measured, rel=0.02)


def test_a_layer_keeps_what_can_be_counted_by_hand() -> None:
    section = MegatronSection(bf16=True)
    hidden, query, key_value, ffn, heads = 1536, 12 * 128, 2 * 128, 8960, 12
    elements = 4 * hidden + (query + 2 * key_value) + (query + key_value) + query + 3 * ffn
    assert layer_bytes(SMALL.architecture, section) == 2 * elements + 4 * heads + 8
    assert layer_bytes(SMALL.architecture, section, "selective") == 2 * elements + 8
    assert layer_bytes(SMALL.architecture, section, "full") == 2 * hidden
    # in float32 everything but the statistics doubles
    single = MegatronSection()
    assert layer_bytes(SMALL.architecture, single, "selective") == 4 * elements + 8


def test_sequence_parallelism_splits_what_tensor_parallelism_leaves_whole() -> None:
    tensor = MegatronSection(bf16=True, tensor_model_parallel_size=2)
    both = MegatronSection(bf16=True, tensor_model_parallel_size=2, sequence_parallel=True)
    saved = layer_bytes(SMALL.architecture, tensor) - layer_bytes(SMALL.architecture, both)
    assert saved == 2 * 4 * 1536 / 2 + 4


def test_early_stages_keep_more_micro_batches_and_never_more_than_there_are() -> None:
    section = MegatronSection(pipeline_model_parallel_size=4)
    assert [in_flight(section, stage, 100) for stage in range(4)] == [4, 3, 2, 1]
    assert [in_flight(section, stage, 2) for stage in range(4)] == [2, 2, 2, 1]
    virtual = MegatronSection(pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2)
    # 2 (4 - 1) + 4 + 1 pieces of half a stage
    assert in_flight(virtual, 0, 100) == 11 / 2


def test_full_recomputation_keeps_what_enters_a_layer_or_a_unit_of_layers() -> None:
    def kept(**section: object) -> float:
        return kept_bytes(SMALL.architecture, MegatronSection(bf16=True, **section), 0, 1000, 1)  # type: ignore[arg-type]

    full = {"recompute_granularity": "full", "recompute_method": "uniform"}
    assert kept(**full, recompute_num_layers=1) == 28 * 1000 * 2 * 1536
    assert kept(**full, recompute_num_layers=7) == 4 * 1000 * 2 * 1536
    block = full | {"recompute_method": "block", "recompute_num_layers": 10}
    assert kept(**block) == 1000 * (10 * 2 * 1536 + 18 * layer_bytes(SMALL.architecture, MegatronSection(bf16=True)))


@pytest.mark.parametrize("free", [0, 2**30, 5 * 2**30, 9 * 2**30, 17 * 2**30, 19 * 2**30, 100 * 2**30])
def test_the_head_takes_what_the_kernel_takes(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planner needs no torch, so it has the kernel's sizes and rule once more."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 0)
    gpu = SimpleNamespace(is_cuda=True, device=torch.device("cuda", 0))
    assert affordable(free) == sizes.affordable_bytes(gpu, KEPT)  # type: ignore[arg-type]
    assert (MOST_BYTES, LEAST_BYTES, SHARED_BYTES, KEPT) == (
        sizes.MOST_BYTES,
        sizes.LEAST_BYTES,
        sizes.SHARED_BYTES,
        sizes.KEPT,
    )


def test_the_head_takes_less_where_less_is_free() -> None:
    assert affordable(100 * GIB) == MOST_BYTES
    assert LEAST_BYTES / 2 < affordable(0) <= LEAST_BYTES
    section = MegatronSection(bf16=True)
    most, least = (head_bytes(SMALL.architecture, section, 16384, size, True) for size in (MOST_BYTES, LEAST_BYTES))
    columns, hidden = 151936, 1536
    assert most - head_bytes(SMALL.architecture, section, 16384, MOST_BYTES, False) == MOST_BYTES
    assert most == MOST_BYTES + 2 * 16384 * columns + 3 * 2 * 16384 * hidden + 4 * columns * hidden
    assert least == 5 * LEAST_BYTES + 3 * 2 * 16384 * hidden + 4 * columns * hidden


def test_the_largest_budget_fits_and_the_next_does_not() -> None:
    own = setting(SEVEN, 8, tensor_model_parallel_size=4, sequence_parallel=True)
    budget = fitting_budget(own, 10)
    peaks = [max(rank.peak for rank in ranks(own, size, 10)) for size in (budget, budget + 512)]
    assert peaks[0] <= GPU.memory_bytes < peaks[1]
    assert fitting_budget(setting(SEVEN), 1) == 0


def test_an_offloaded_optimizer_is_on_the_device_for_its_step_only() -> None:
    own = setting(SEVEN, 8, tensor_model_parallel_size=4)
    away = replace(own, offloads_optimizer=True)
    here, there = (rank_memory(each, 0, 16384, 10) for each in (own, away))
    assert here.phases()["train"] - there.phases()["train"] == here.states.optimizer
    assert here.phases()["optimizer step"] == there.phases()["optimizer step"]


def test_a_server_shares_weights_and_groups_and_takes_its_share_of_the_card() -> None:
    one = server_memory(SEVEN, GPU, RolloutSection())
    assert one.weights == 2 * SEVEN.num_parameters
    assert one.kv_bytes_per_token == 2 * 4 * 128 * 28 * 2
    assert one.weights + one.kv_cache == pytest.approx(DEFAULT_STATIC * GPU.memory_bytes)
    four = server_memory(SEVEN, GPU, RolloutSection(tensor_parallel_size=4))
    assert four.kv_bytes_per_token == one.kv_bytes_per_token / 4
    # norms are on every GPU
    norms = 2 * (2 * 28 + 1) * 3584
    assert four.weights == pytest.approx(one.weights / 4 + norms * 3 / 4)
    flags = RolloutSection(sglang_args=("--mem-fraction-static", "0.7"))
    assert static_share(flags) == static_share(RolloutSection(sglang_args=("--mem-fraction-static=0.7",))) == 0.7


def test_what_the_trainer_holds_is_not_the_servers() -> None:
    beside = server_memory(SEVEN, GPU, RolloutSection(), resident_bytes=60 * GIB)
    assert beside.weights + beside.kv_cache == GPU.memory_bytes - 60 * GIB
    own = setting(SEVEN, 8, tensor_model_parallel_size=4)
    [problem] = memory_problems(own, ranks(own, 16384, 1), replace(beside, kv_cache=-GIB), 4096)
    assert "a server has -1.0 GiB for keys and values" in problem
    assert "over by 1.2 GiB" in problem


def test_context_ranks_share_the_tokens_of_a_micro_batch() -> None:
    alone, shared = setting(SMALL, 2), setting(SMALL, 2, context_parallel_size=2)
    whole, half = rank_memory(alone, 0, 16384, 1), rank_memory(shared, 0, 16384, 1)
    assert half.activations == whole.activations / 2
    assert half.working == whole.working / 2


@pytest.mark.parametrize(("bf16", "asked", "makes"), [(1, 0, False), (1, 1, True), (0, 0, True)])
def test_logits_are_counted_where_the_gradient_comes_from_them(
    bf16: int, asked: int, makes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "affordable", lambda _free: LEAST_BYTES)
    own = replace(setting(SMALL, bf16=bool(bf16)), makes_logits=bool(asked))
    section = own.world.section
    expected = head_bytes(SMALL.architecture, section, 8192, LEAST_BYTES, makes)
    assert rank_memory(own, 0, 8192, 1).head == expected


def test_ranks_that_share_a_vocabulary_take_the_same_rows_whatever_is_free() -> None:
    shared = setting(SMALL, 2, tensor_model_parallel_size=2)
    for makes, size in ((False, SHARED_BYTES), (True, MOST_BYTES)):
        expected = head_bytes(SMALL.architecture, shared.world.section, 16384, size, makes)
        assert rank_memory(replace(shared, makes_logits=makes), 0, 16384, 1).head == expected


def test_only_the_last_stage_has_a_head() -> None:
    own = setting(SMALL, 4, pipeline_model_parallel_size=4)
    assert [rank.head > 0 for rank in ranks(own, 8192, 4)] == [False, False, False, True]


def test_a_colocated_server_that_sleeps_still_holds_a_gibibyte() -> None:
    apart = setting(SMALL)
    together = replace(apart, is_colocated=True)
    peaks = [rank_memory(each, 0, 8192, 1).phases()["optimizer step"] for each in (together, apart)]
    assert peaks[0] - peaks[1] == GIB


def test_weights_on_their_way_are_gathered_first_where_they_are_shared() -> None:
    largest = 2 * 152064 * 3584
    assert sync_bytes(setting(SEVEN)) == largest + 2 * largest
    assert sync_bytes(setting(SEVEN, 2, tensor_model_parallel_size=2)) == 2 * largest + 2 * largest
    wide = replace(setting(SMALL), bucket_bytes=2**31)
    assert sync_bytes(wide) == 2 * 151936 * 1536 + 2 * 2**31


def test_more_gpus_than_query_groups_keep_copies_of_them() -> None:
    two, four = (MegatronSection(bf16=True, tensor_model_parallel_size=size) for size in (2, 4))
    # two groups of the 1.5B model on four ranks: keys and values of a rank are no smaller than on two
    rest = [(3 * 1536 + 3 * 8960) / section.tensor_model_parallel_size for section in (two, four)]
    kept = [layer_bytes(SMALL.architecture, section, "selective") for section in (two, four)]
    assert kept[0] - 2 * rest[0] == kept[1] - 2 * rest[1]
    assert SMALL.kv_bytes_per_token(4) == SMALL.kv_bytes_per_token(2) == SMALL.kv_bytes_per_token(1) / 2


def test_a_mixture_keeps_a_token_for_each_expert_that_it_goes_to() -> None:
    mixture = model("qwen3-30b-a3b")
    section = MegatronSection(bf16=True)
    hidden, query, key_value = 2048, 32 * 128, 4 * 128
    inside = 8 * (3 * 768 + 2 * hidden)
    elements = 4 * hidden + (query + 2 * key_value) + (query + key_value) + query + inside
    assert layer_bytes(mixture.architecture, section, "selective") == 2 * elements + 8
    experts = 2 * 48 * 128 * 3 * 768 * hidden
    assert mixture.served_bytes(1, only_experts=True) == experts < mixture.served_bytes(1)


def test_gradients_of_experts_are_not_reduced_in_buckets_and_adams_moments_may_be_small() -> None:
    eight = World(8, MegatronSection(bf16=True))
    assert reduces_in_buckets(SMALL.architecture, eight)
    assert not reduces_in_buckets(model("qwen3-30b-a3b").architecture, eight)
    assert not reduces_in_buckets(SMALL.architecture, World(1, MegatronSection(bf16=True)))
    assert optimizer_bytes(eight.section) == 12
    assert optimizer_bytes(MegatronSection()) == 8
    assert optimizer_bytes(MegatronSection(bf16=True, exp_avg_dtype="bf16", exp_avg_sq_dtype="fp16")) == 8


def test_weights_that_are_broadcast_in_flight_take_a_bucket_of_rank_0_while_it_trains() -> None:
    behind = setting(SEVEN, 4, pipeline_model_parallel_size=2)
    beside = replace(behind, broadcasts_in_flight=True)
    for stage, bucket in ((0, 2 * 152064 * 3584), (1, 0)):
        with_it, without = (rank_memory(each, stage, 8192, 1) for each in (beside, behind))
        for phase in ("train", "optimizer step"):
            assert with_it.phases()[phase] - without.phases()[phase] == bucket
        assert with_it.phases()["weight sync"] == without.phases()["weight sync"]
    roomy = replace(beside, bucket_bytes=2**31)
    assert rank_memory(roomy, 0, 8192, 1).in_flight == 2**31
