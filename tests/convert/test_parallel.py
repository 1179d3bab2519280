"""Layouts: our verdict is megatron-core's own, and the parameters of all ranks add up to the model."""

from itertools import product

import pytest

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.parallel import ParallelLayout, layout_problems, parameters_of_rank, stage_layers
from egrc_mega.policy import distributed  # noqa: F401  (points megatron at the CPU)
from egrc_mega.sections.policy import MegatronSection

# isort: split
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from egrc_mega.policy.model import transformer_config

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 60}


def architecture(heads: int = 12, groups: int = 12, layers: int = 4, family: str = "Qwen2") -> Architecture:
    return architecture_of(
        HfConfig(
            {
                "architectures": [f"{family}ForCausalLM"],
                "hidden_size": 48,
                "intermediate_size": 60,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": groups,
                "head_dim": 60,
                "vocab_size": 41,
                "max_position_embeddings": 64,
                "hidden_act": "silu",
            }
            | (EXPERTS if family == "Qwen3Moe" else {})
        )
    )


def megatron_accepts_heads(model: Architecture, tensor: int) -> bool:
    try:
        transformer_config(model, MegatronSection(tensor_model_parallel_size=tensor))
    except (AssertionError, ValueError):
        return False
    return True


@pytest.mark.parametrize("heads", [4, 6, 12])
def test_heads_and_groups_are_accepted_when_megatron_accepts_them(heads: int) -> None:
    verdicts = set()
    for groups, tensor in product([g for g in (1, 2, 3, 4, 6, 12) if heads % g == 0], (1, 2, 3, 4, 5, 6, 12)):
        model = architecture(heads, groups)
        ours = not list(layout_problems(model, ParallelLayout(tensor)))
        assert ours is megatron_accepts_heads(model, tensor), (heads, groups, tensor)
        verdicts.add(ours)
    assert verdicts == {True, False}


def megatron_stages(model: Architecture, layout: ParallelLayout) -> list[int] | None:
    fields = {
        "pipeline_model_parallel_size": layout.pipeline_model_parallel_size,
        "num_layers_in_first_pipeline_stage": layout.num_layers_in_first_pipeline_stage,
        "num_layers_in_last_pipeline_stage": layout.num_layers_in_last_pipeline_stage,
    }
    try:
        config = transformer_config(model, MegatronSection(**fields))
        stages = [get_num_layers_to_build(config, pp_rank=rank) for rank in range(layout.pipeline_model_parallel_size)]
    except (AssertionError, ValueError):
        return None
    # megatron does not look whether every layer has a stage, or every stage a layer
    return stages if sum(stages) == model.num_layers and min(stages) > 0 else None


@pytest.mark.parametrize("layers", [1, 3, 4, 7])
def test_stages_are_those_that_megatron_builds(layers: int) -> None:
    model = architecture(layers=layers)
    accepted = 0
    for pipeline, first, last in product((1, 2, 3, 4), (None, 1, 2, 3), (None, 1, 2)):
        layout = ParallelLayout(
            pipeline_model_parallel_size=pipeline,
            num_layers_in_first_pipeline_stage=first,
            num_layers_in_last_pipeline_stage=last,
        )
        if pipeline == 1 and (first or last):
            assert list(layout_problems(model, layout))
            continue
        expected = megatron_stages(model, layout)
        problems = list(layout_problems(model, layout))
        assert (expected is not None) is not bool(problems), (layout, problems)
        if expected:
            assert [sum(map(len, stage)) for stage in stage_layers(layers, layout)] == expected
            accepted += 1
    assert accepted


def test_pieces_of_interleaved_stages_are_those_that_megatron_builds() -> None:
    model = architecture(layers=12)
    layout = ParallelLayout(pipeline_model_parallel_size=3, virtual_pipeline_model_parallel_size=2)
    assert not list(layout_problems(model, layout))
    section = MegatronSection(pipeline_model_parallel_size=3, virtual_pipeline_model_parallel_size=2)
    config = transformer_config(model, section)
    for stage, pieces in enumerate(stage_layers(12, layout)):
        for place, piece in enumerate(pieces):
            assert piece.start == get_transformer_layer_offset(config, vp_stage=place, pp_rank=stage)
            assert len(piece) == get_num_layers_to_build(config, vp_stage=place, pp_rank=stage)


@pytest.mark.parametrize(
    ("pipeline", "virtual", "first", "message"),
    [
        (2, 2, None, "pipeline_model_parallel_size 3 or more, not 2: with two stages both neighbours are the same"),
        (3, 3, None, "3 stages x 3 pieces cannot share 12 layers evenly"),
        (3, 2, 2, "leave out num_layers_in_first/last_pipeline_stage"),
    ],
)
def test_impossible_interleaving_is_refused_with_the_reason(
    pipeline: int, virtual: int, first: int | None, message: str
) -> None:
    layout = ParallelLayout(
        pipeline_model_parallel_size=pipeline,
        num_layers_in_first_pipeline_stage=first,
        virtual_pipeline_model_parallel_size=virtual,
    )
    assert any(message in problem for problem in layout_problems(architecture(layers=12), layout))


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3Moe"])
def test_the_parameters_of_all_ranks_add_up(family: str) -> None:
    model = architecture(family=family)
    alone = parameters_of_rank(model, ParallelLayout(), 0)
    stages = sum(parameters_of_rank(model, ParallelLayout(pipeline_model_parallel_size=2), stage) for stage in (0, 1))
    assert stages == alone
    if family == "Qwen3Moe":
        spread = parameters_of_rank(model, ParallelLayout(expert_model_parallel_size=3), 0)
        experts = model.num_layers * 6 * 3 * 60 * 48
        assert spread == alone - experts * 2 // 3
