"""Builds this rank's part of the policy as a megatron-core GPTModel."""

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from egrc_mega.convert.family import Architecture
from egrc_mega.policy import wgrad
from egrc_mega.policy.kernel_parts import install_rope, replaces_megatrons
from egrc_mega.policy.layer_spec import block_spec, fuses_weight_gradients, uses_transformer_engine
from egrc_mega.sections.policy import MegatronSection

SECTION_FIELDS = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "virtual_pipeline_model_parallel_size",
    "expert_model_parallel_size",
    "context_parallel_size",
    "sequence_parallel",
    "num_layers_in_first_pipeline_stage",
    "num_layers_in_last_pipeline_stage",
    "recompute_granularity",
    "recompute_method",
    "recompute_num_layers",
)
"""Fields of the `megatron` section that TransformerConfig has under the same names."""


def transformer_config(architecture: Architecture, section: MegatronSection) -> TransformerConfig:
    """Megatron's configuration: sizes from the checkpoint's config.json, layout from the `megatron` section."""
    dtype = torch.bfloat16 if section.bf16 else torch.float32
    fuses = replaces_megatrons() and not uses_transformer_engine(section.transformer_impl)
    if fuses:
        install_rope()
    if fuses_weight_gradients() and not uses_transformer_engine(section.transformer_impl):
        wgrad.install()
    return TransformerConfig(
        **architecture.transformer_fields,
        **{name: getattr(section, name) for name in SECTION_FIELDS},
        activation_func=F.silu,
        bf16=section.bf16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=not torch.cuda.is_available(),
        # wasted work, for every weight comes from a checkpoint; but only then does megatron mark weights as split,
        # and without the marks the gradient norm counts them wrongly
        perform_initialization=True,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=fuses,
        # the slot for an activation of one's own; experts have none in the local spec
        use_te_activation_func=fuses and not architecture.num_experts,
        gradient_accumulation_fusion=fuses_weight_gradients(),
        # packed micro-batches differ in length, and the default dispatcher refuses that. Interleaved stages get them of
        # one length (engine): where sends wait for their receiver, as gloo's do, their exchange of shapes deadlocks
        variable_seq_lengths=section.virtual_pipeline_model_parallel_size is None,
        moe_token_dispatcher_type="alltoall",
        # our loss is normalised over the whole batch already: gradients are summed, never averaged
        calculate_per_token_loss=True,
        deterministic_mode=torch.are_deterministic_algorithms_enabled(),
    )


class PolicyModel(GPTModel):
    """Megatron's GPTModel that ends with hidden states: log-probs are made of them without all logits in memory."""

    def _postprocess(self, hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        """On the last stage [T, H], whole on every tensor-parallel rank; between stages as megatron passes it on.

        What output_layer would do before its product: backward adds the gradients of the vocabulary's shards.
        """
        if not self.post_process:
            return hidden_states
        if self.config.sequence_parallel:
            whole_T1H = gather_from_sequence_parallel_region(hidden_states)
        else:
            whole_T1H = copy_to_tensor_model_parallel_region(hidden_states)
        return whole_T1H[:, 0]

    @property
    def output_weight_VH(self) -> torch.Tensor:
        """This rank's shard of the output layer, or of the embedding when they are tied. Last stage only."""
        if self.share_embeddings_and_output_weights:
            return self.shared_embedding_or_output_weight()
        return self.output_layer.weight


def build_model(
    architecture: Architecture, config: TransformerConfig, transformer_impl: str = "auto"
) -> list[PolicyModel]:
    """This rank's part of the model on the device of the backend, its weights not yet set.

    One model, or with virtual pipeline stages as many as those, in the order in which tokens pass them.
    """
    pieces = config.virtual_pipeline_model_parallel_size
    numbers: list[int | None] = list(range(pieces)) if pieces else [None]
    return [_build_piece(architecture, config, transformer_impl, number) for number in numbers]


def _build_piece(
    architecture: Architecture, config: TransformerConfig, transformer_impl: str, piece: int | None
) -> PolicyModel:
    extra: dict[str, Any] = architecture.model_fields
    model = PolicyModel(
        config=config,
        transformer_layer_spec=block_spec(config, transformer_impl, piece),
        vocab_size=architecture.padded_vocab_size(config.tensor_model_parallel_size),
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=piece),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=piece),
        parallel_output=True,
        position_embedding_type="rope",
        vp_stage=piece,
        **extra,
    )
    return model.cuda() if torch.cuda.is_available() and not next(model.parameters()).is_meta else model
