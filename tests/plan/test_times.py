"""The parts of the time model, on cases that can be reckoned by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.presets import PRESETS
from egrc_mega.plan.constants import CONSTANTS, Constants
from egrc_mega.plan.generation import Server, batch_seconds
from egrc_mega.plan.gpus import find_gpu
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.model_facts import Model
from egrc_mega.plan.states import World
from egrc_mega.plan.training_time import Work, bubble, num_micro_batches, training_time
from egrc_mega.sections.policy import MegatronSection

GPU = find_gpu("h100-80g")
SMALL, SEVEN = (
    Model(architecture_of(HfConfig(dict(PRESETS[name]))), name)
    for name in ("deepseek-r1-distill-qwen-1.5b", "deepseek-r1-distill-qwen-7b")
)
WORK = Work(1024, Lengths(2048, 4096), 128)


def world(num_ranks: int, **section: object) -> World:
    return World(num_ranks, MegatronSection(**({"bf16": True} | section)))


@pytest.mark.parametrize("mean", [1, 100, 2047.5, 2048, 2049, 3900, 4095])
def test_lengths_have_the_mean_that_was_asked_for_and_end_at_the_cap(mean: float) -> None:
    lengths = Lengths(mean, 4096)
    drawn = lengths.quantiles(20_000)
    assert drawn.mean() == pytest.approx(mean, rel=2e-3)
    assert np.all(np.diff(drawn) > 0)
    assert 0 < drawn[0] < drawn[-1] < 4096
    assert lengths.mean_square == pytest.approx(float(np.mean(drawn**2)), rel=2e-3)


def test_half_of_the_cap_is_the_even_distribution() -> None:
    assert Lengths(2048, 4096).quantiles(4) == pytest.approx([512, 1536, 2560, 3584])


def test_one_response_takes_its_steps_times_the_bytes_of_a_step() -> None:
    constants = Constants(flops_share=1.0, bandwidth_share=0.5, decode_overhead_s=0.01)
    lengths, prompt = Lengths(999, 1000), 0
    server = Server(SEVEN, GPU, 1, 10**6)
    step = 2 * SEVEN.num_parameters / (0.5 * GPU.memory_bytes_per_s) + 0.01
    keys = 500 * 2 * 4 * 128 * 28 * 2 / (0.5 * GPU.memory_bytes_per_s)
    assert batch_seconds(server, 1, 1, lengths, prompt, constants) == pytest.approx(1000 * (step + keys), rel=0.01)


def test_the_longest_of_all_responses_counts_however_many_servers_there_are() -> None:
    server = Server(SEVEN, GPU, 1, 10**6)
    alone = batch_seconds(server, 1, 1, Lengths(4095, 4096), 128, CONSTANTS)
    many = batch_seconds(server, 1024, 1024, WORK.lengths, 128, CONSTANTS)
    assert many == pytest.approx(alone, rel=0.02)
    assert batch_seconds(server, 1024, 8, WORK.lengths, 128, CONSTANTS) > many


def test_a_small_cache_makes_responses_wait_and_one_always_runs() -> None:
    def seconds(tokens: int) -> float:
        return batch_seconds(Server(SEVEN, GPU, 1, tokens), 64, 1, WORK.lengths, 128, CONSTANTS)

    assert seconds(10**6) < seconds(50_000) < seconds(5_000)
    assert seconds(0) == pytest.approx(seconds(1), rel=1e-6)


def test_a_bubble_is_what_its_formula_says() -> None:
    assert bubble(1, None, 7) == 0
    assert bubble(4, None, 9) == 3 / 12
    assert bubble(4, 2, 9) == 3 / 21


def test_micro_batches_are_counted_for_each_update_and_rank() -> None:
    tokens = 1024 * (2048 + 128)
    assert num_micro_batches(world(4), WORK, 16384) == -(-tokens // (4 * 16384))
    assert num_micro_batches(world(4), replace(WORK, num_updates=2), 16384) == -(-tokens // (8 * 16384))
    virtual = world(4, pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2)
    assert num_micro_batches(virtual, WORK, 20000) % 4 == 0


def test_products_are_the_policys_own_count_over_the_share_of_the_peak() -> None:
    time = training_time(SEVEN, world(8), GPU, WORK, 16384, CONSTANTS)
    draws = [round(length) for length in WORK.lengths.quantiles(1024)]
    counted = SEVEN.flops.training([length + 128 for length in draws], sum(draws))
    assert time.useful_flops == pytest.approx(counted, rel=2e-3)
    assert time.products == pytest.approx(counted / (8 * GPU.bf16_flops * CONSTANTS.flops_share), rel=2e-3)
    scored = training_time(SEVEN, world(8), GPU, replace(WORK, num_scorings=2), 16384, CONSTANTS)
    assert scored.products == pytest.approx(time.products * 5 / 3)


def test_ranks_that_outnumber_the_responses_take_as_long_as_the_longest_of_them() -> None:
    few = replace(WORK, num_responses=4)
    longest = round(WORK.lengths.quantiles(4)[-1])
    alone = SEVEN.flops.training([longest + 128], longest) / (GPU.bf16_flops * CONSTANTS.flops_share)
    for num_ranks in (8, 64):
        assert training_time(SEVEN, world(num_ranks), GPU, few, 16384, CONSTANTS).products == pytest.approx(alone)
    shared = training_time(SEVEN, world(64, tensor_model_parallel_size=4), GPU, few, 16384, CONSTANTS)
    assert shared.products == pytest.approx(alone / 4)


def test_full_recomputation_costs_a_forward_and_float32_more_than_that() -> None:
    def products(**section: object) -> float:
        return training_time(SEVEN, world(8, **section), GPU, WORK, 16384, CONSTANTS).products

    full = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    assert products(**full) == pytest.approx(products() * 4 / 3)
    assert products() < products(recompute_granularity="selective") < products(**full)
    assert products(bf16=False) == pytest.approx(2 * products())


def test_sends_count_within_a_node_and_beyond_it() -> None:
    def sends(num_ranks: int, **section: object) -> float:
        return training_time(SEVEN, world(num_ranks, **section), GPU, WORK, 16384, CONSTANTS).tensor

    assert sends(8) == 0
    tokens = 1024 * (2048 + 128) / 4
    moved = 2 * tokens * 28 * 4 * 2 * 3584 / 2
    assert sends(8, tensor_model_parallel_size=2) == pytest.approx(moved / (450e9 * CONSTANTS.bandwidth_share))
    assert sends(8, pipeline_model_parallel_size=2) > 0
    assert sends(8, context_parallel_size=2) > 0


def test_gradients_that_products_hide_cost_nothing() -> None:
    few = training_time(SEVEN, world(64), GPU, replace(WORK, num_responses=64), 4096, CONSTANTS)
    assert few.data > 0
    assert training_time(SEVEN, world(64), GPU, replace(WORK, num_responses=6400), 65536, CONSTANTS).data == 0


def test_a_training_step_takes_what_one_h100_took(root: Path) -> None:
    """R1-Distill-Qwen-1.5B, four responses of 4096 tokens: not one of the steps that the model was fitted on."""
    lines = (root / "benchmarks/results/h100/second_step.jsonl").read_text().splitlines()
    measured = next(row["seconds"] for row in map(json.loads, lines) if row["name"] == "even, all on")
    work = Work(4, Lengths(4090, 4096), 0)
    assert training_time(SMALL, world(1), GPU, work, 16384, CONSTANTS).total == pytest.approx(measured, rel=0.1)


def test_an_optimizer_on_the_host_comes_and_goes_once_an_update() -> None:
    work = replace(WORK, num_updates=2)
    here, there = (
        training_time(SEVEN, world(8), GPU, work, 16384, CONSTANTS, offloads_optimizer=away) for away in (False, True)
    )
    moved = 2 * 2 * 12 * SEVEN.num_parameters / 8
    assert there.total - here.total == pytest.approx(moved / (GPU.host_bytes_per_s * CONSTANTS.bandwidth_share))


def test_gradients_of_two_nodes_go_over_the_network() -> None:
    few = replace(WORK, num_responses=16)
    for num_ranks, rate in ((8, GPU.link_bytes_per_s), (16, GPU.network_bytes_per_s)):
        time = training_time(SEVEN, world(num_ranks), GPU, few, 4352, CONSTANTS)
        moved = 6 * SEVEN.num_parameters * (num_ranks - 1) / num_ranks
        hidden = time.products * 2 / 3 / time.num_micro_batches
        expected = max(0.0, moved / (rate * CONSTANTS.bandwidth_share) - hidden)
        assert time.data == pytest.approx(expected), num_ranks
    assert time.data > 0
