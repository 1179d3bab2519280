"""The policy's layout, optimizer and update step."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from egrc_mega.sections.base import Section


class MegatronSection(Section):
    """Megatron-core's own names, handed to TransformerConfig, OptimizerConfig and DistributedDataParallelConfig."""

    tensor_model_parallel_size: PositiveInt = 1
    """Ranks that share each layer."""
    pipeline_model_parallel_size: PositiveInt = 1
    """Ranks that share the depth."""
    virtual_pipeline_model_parallel_size: Annotated[int, Field(ge=2)] | None = None
    """Pieces of the depth on each pipeline stage, interleaved for a smaller bubble; from three stages on."""
    context_parallel_size: PositiveInt = 1
    """Ranks that share the tokens of each sequence; keys and values are gathered."""
    sequence_parallel: bool = False
    """Split tokens over the tensor-parallel ranks between layers; saves activations, and experts need it to train."""
    expert_model_parallel_size: PositiveInt = 1
    """Ranks that share the experts of a mixture-of-experts model."""
    num_layers_in_first_pipeline_stage: PositiveInt | None = None
    """Layers of the first pipeline stage; None: as many as the others."""
    num_layers_in_last_pipeline_stage: PositiveInt | None = None
    """Layers of the last pipeline stage; None: as many as the others."""
    use_distributed_optimizer: bool = True
    """Shard the optimizer state over data-parallel ranks."""
    overlap_grad_reduce: bool | None = None
    """Add up gradients over data-parallel ranks while backward goes on; None: on NCCL, but for experts."""
    overlap_param_gather: bool | None = None
    """Gather weights over data-parallel ranks while forward goes on; with both of the above. None: on NCCL too."""
    bf16: bool = False
    """bf16 weights and activations with fp32 masters; False trains in fp32."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW beta1."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """AdamW beta2."""
    adam_eps: PositiveFloat = 1e-8
    """AdamW epsilon."""
    weight_decay: NonNegativeFloat = 0.1
    """AdamW weight decay."""
    clip_grad: NonNegativeFloat = 1.0
    """Global gradient-norm clip; 0 turns it off."""
    transformer_impl: Literal["auto", "local", "transformer_engine"] = "auto"
    """Whose layers: Transformer Engine's where it is installed (`auto`), or megatron-core's with parts of our own."""
    use_precision_aware_optimizer: bool = False
    """Keep Adam's moments in the two types below; Transformer Engine's FusedAdam and the distributed optimizer do."""
    exp_avg_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of Adam's first moment."""
    exp_avg_sq_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of Adam's second moment."""
    recompute_granularity: Literal["full", "selective"] | None = None
    """Activation recomputation."""
    recompute_method: Literal["uniform", "block"] | None = None
    """With full recomputation: how layers are chosen."""
    recompute_num_layers: PositiveInt | None = None
    """With full recomputation: layers per unit."""


class PolicySection(Section):
    """The update step around megatron."""

    max_tokens_per_micro_batch: PositiveInt = 16384
    """Packing budget, prompt and output tokens together. A longer sample is an error."""
    score_dropped: bool = True
    """One gradient-free forward for samples without advantage, for entropies and the log-prob check."""
    logprob_check: bool = True
    """Compare the server's log-probs with the trainer's before the first optimizer step of each batch."""
    logprob_median_bound: PositiveFloat | None = None
    """Above this median of the absolute differences the run stops. None: 1e-4 in fp32, 0.02 in bf16."""
    logprob_p99_bound: PositiveFloat | None = None
    """Above this 99th percentile of the absolute differences it stops. None: 1e-3 in fp32, 0.2 in bf16."""
    logprob_bound: PositiveFloat | None = None
    """Above this largest absolute difference it stops. None: 1e-2 in fp32 (1e-4 is met), 2 in bf16, where a single
    token says little. One missed update is below bf16's noise: sync.verify_every finds that."""
    kernels: Literal["auto", "reference", "triton"] = "auto"
    """Triton kernels or their PyTorch references; `auto`: kernels on a GPU. EGRC_KERNELS decides where this is auto."""
    fused_output_layer: bool = False
    """No logits in memory for any loss, and the same bits of a token in training as in scoring. A token loss has that
    anyway, but not with an entropy term or sampling masks. For the 7B model's output layer on an H200 ratios of
    sequences take 7 % less time then, an entropy term a fifth more. bf16 on NVIDIA only."""
    offload_optimizer: bool = False
    """Keep optimizer state in host memory but for the step itself; bitwise the same, slower by two copies."""
    deterministic: bool = False
    """Bitwise the same numbers in a repeated run, on GPUs too; on CPUs it holds without."""
    peak_tflops: PositiveFloat | None = None
    """A device's peak in the training dtype, e.g. 989 for an H100 in bf16; gives MFU in the metrics."""
    distributed_timeout_s: PositiveFloat = 1800.0
    """Longest that a rank may be without any movement, a micro-batch or a collective, outside of rank 0's part. Then
    all ranks' stacks are written to RUN/hangs, and the run ends with exit code 13."""
