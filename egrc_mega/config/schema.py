"""The schema of a run's configuration: every field typed, bounded, described; unknown keys are errors.

Defaults are the paper's or the closest public recipe's; see `configs/` for complete files. The section `megatron` keeps
megatron-core's own field names. Nothing here imports torch, so `egrc --help` and validation stay instant.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class Section(BaseModel):
    """A frozen group of fields that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class RunSection(Section):
    """Where the run lives and its one seed."""

    dir: Path
    """Run folder: metrics, checkpoints, export and report go here."""
    seed: NonNegativeInt = 1
    """Every random choice of the run derives from it."""


class ModelSection(Section):
    """The model to compress."""

    path: Path
    """Hugging Face folder: config.json, safetensors, tokenizer."""
    expects: dict[str, int | float | bool | str] = {}
    """Fields that config.json must have with these values: a recipe says which model it is for."""


class DataSection(Section):
    """Training prompts."""

    train: Path
    """JSONL or parquet file, one problem a row."""
    prompt_key: str = "problem"
    """Field that holds the problem's text."""
    answer_key: str = "answer"
    """Field that holds the gold answer."""
    instruction: str = ""
    """Text appended to every problem, e.g. "Let's think step by step and output the final answer within \\boxed{}."."""
    shuffle: bool = True
    """A new seeded order each epoch."""
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """More malformed rows than this share stops the run; fewer are set aside in `quarantine.jsonl`."""


class EnvironmentSection(Section):
    """An environment that writes some of the tokens of a response (a rollout in segments)."""

    name: Literal["noisy_arithmetic"]
    """`noisy_arithmetic`: the miniature's first attempts get a wrong result (methods: Run N)."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Chance that the environment writes, at each place where it may."""


class RolloutSection(Section):
    """The rollout servers and how they are asked."""

    server: Literal["embedded", "sglang", "external"] = "embedded"
    """`embedded` starts CPU servers of our own, `sglang` SGLang's, `external` uses servers that run already."""
    urls: tuple[str, ...] = ()
    """Base URLs of external servers, e.g. http://127.0.0.1:30000."""
    hosts_file: Path | None = None
    """File with a base URL of an external server on each line."""
    announce_dir: Path | None = None
    """Shared folder in which servers started by `egrc serve` announce themselves, and where external ones are found."""
    num_servers: PositiveInt = 1
    """Servers to start, or to wait for in `announce_dir`."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where servers of SGLang run, whoever starts them."""
    tensor_parallel_size: PositiveInt = 1
    """Devices that share the model of one server of SGLang."""
    gpus: tuple[NonNegativeInt, ...] = ()
    """GPU numbers, dealt out to the servers in order; empty: from 0 on. Counted within CUDA_VISIBLE_DEVICES, where
    that is set."""
    python: Path | None = None
    """Interpreter that has SGLang; None: `.venv-serve`, which `scripts/serve_env.sh` makes."""
    sglang_args: tuple[str, ...] = ()
    """More flags of SGLang's launcher, e.g. --mem-fraction-static=0.8; they stand last."""
    host: str = "127.0.0.1"
    """Address on which started servers listen; any other than this machine's own loopback needs EGRC_API_KEY."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """First port of the servers that are started; 0 lets the system choose."""
    prompts_per_step: PositiveInt = 128
    """Prompts in each rollout batch."""
    over_sampling: Annotated[float, Field(ge=1)] = 1.0
    """Prompts asked for per prompt trained: once enough groups are whole the others are aborted, and come first in the
    next step."""
    dynamic_sampling: bool = False
    """Train on groups in which some sample has an advantage only, and ask for others in place of those without."""
    dynamic_sampling_limit: Annotated[float, Field(ge=1)] = 8.0
    """New prompts per prompt trained, at most; then the run stops."""
    partial_rollouts: bool = False
    """Go on with aborted responses in the next step instead of starting them again."""
    one_step_ahead: bool = False
    """Sample the next step's batch while this one trains; within a stage."""
    colocated: bool = False
    """Servers stand on the trainer's GPUs: they free their memory while the policy trains, and take it back after."""
    max_version_lag: PositiveInt = 2
    """Tokens of carried responses may come from weights this many steps old; older responses start again."""
    max_refused: NonNegativeInt = 16
    """Prompts that servers may refuse over a run; their groups are left out."""
    max_batch_size: PositiveInt = 256
    """Rows a server on a CPU generates at once."""
    environment: EnvironmentSection | None = None
    """None: the policy writes every token."""
    start_timeout_s: PositiveFloat = 240.0
    """Deadline for a server to become healthy, at the start and after a loss."""
    max_attempts: PositiveInt = 3
    """Times that a request is sent before its loss stops the run; the next attempt goes elsewhere."""
    max_restarts: NonNegativeInt = 3
    """Servers that a run may lose and start again, or wait for when they are external, within `restart_window_s`."""
    restart_window_s: PositiveFloat = 3600.0
    """Restarts longer ago than this no longer count: a run lasts weeks."""
    request_timeout_s: PositiveFloat = 600.0
    """Deadline for one generate request, queueing included."""
    silence_timeout_s: PositiveFloat = 120.0
    """A server that has requests, and of which nothing is heard for so long, is lost; they go elsewhere."""
    update_timeout_s: PositiveFloat = 300.0
    """Deadline for one weight update on one server."""


class SyncSection(Section):
    """How new weights reach the servers."""

    transport: Literal["disk", "distributed", "ipc"] = "disk"
    """`disk`: a folder that trainer and servers share; `distributed`: broadcast in a process group with the servers,
    NCCL or gloo; `ipc`: handles to GPU memory, for servers on the trainer's GPUs."""
    bucket_mib: PositiveInt = 256
    """Tensors that travel together, in MiB."""
    flatten: bool | None = None
    """Broadcast a bucket as one array: fewer starts, one copy more. None: on GPUs only."""
    verify_every: NonNegativeInt = 0
    """Every so many updates all servers' parameters are compared with ours by checksum; 0: never."""


class GradingSection(Section):
    """The pool of killable grading processes."""

    num_workers: PositiveInt = 2
    """Child processes."""
    timeout_s: PositiveFloat = 5.0
    """Deadline for one answer; what misses it is ungraded and its worker is killed."""


class MegatronSection(Section):
    """megatron-core's own names, handed to TransformerConfig, OptimizerConfig and DistributedDataParallelConfig."""

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
    logprob_bound: PositiveFloat = 1e-2
    """Largest allowed absolute difference; above it the run stops. 1e-4 is met in fp32, bf16 needs about 0.1."""
    kernels: Literal["auto", "reference", "triton"] = "auto"
    """Triton kernels or their PyTorch references; `auto`: kernels on a GPU. EGRC_KERNELS decides where this is auto."""
    offload_optimizer: bool = False
    """Keep optimizer state in host memory but for the step itself; bitwise the same, slower by two copies."""
    deterministic: bool = False
    """Bitwise the same numbers in a repeated run, on GPUs too; on CPUs it holds without."""
    peak_tflops: PositiveFloat | None = None
    """A device's peak in the training dtype, e.g. 989 for an H100 in bf16; gives MFU in the metrics."""
    distributed_timeout_s: PositiveFloat = 1800.0
    """Deadline of a collective; must exceed the longest rollout."""


class SamplingSection(Section):
    """How rollouts are drawn in a stage."""

    n: PositiveInt = 8
    """Samples per prompt: the group."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; log-probs and the loss use logits divided by it."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus; below 1 the behaviour policy differs from the log-probs that are trained on."""
    max_new_tokens: PositiveInt | None = None
    """Generation cap on |y|; None: clip_len in compress, 2 x clip_len in explore."""


class ShapeSection(Section):
    """Length shaping f of a positive sample's advantage, f(0) = 1 and f(len) = r (paper 3.3.3)."""

    kind: Literal["exp", "linear", "cosine", "none"] = "exp"
    """exp is the paper's; linear and cosine are its ablations; none is f = 1."""
    r: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Value at |y| = len."""
    len: PositiveInt | None = None
    """None: clip_len."""


class LossSection(Section):
    """How token terms become one scalar."""

    agg: Literal["seq-mean-token-mean", "token-mean"] = "seq-mean-token-mean"
    """1/|o| within a sequence then the mean over sequences (paper 3.1), or the mean over tokens."""
    denominator: Literal["all", "kept"] = "all"
    """Sequences or tokens to divide by: all rollouts of the batch, or those with an advantage."""
    ratio: Literal["none", "token", "sequence"] = "none"
    """none: -A log pi; token: PPO's clipped ratio per token; sequence: one ratio per response (GSPO)."""
    eps_clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip of the ratio: 1 - eps_clip."""
    eps_clip_high: PositiveFloat = 0.28
    """Upper clip of the ratio: 1 + eps_clip_high."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound on the loss of a negative advantage, as a multiple of it; None: unbounded."""
    old_logprobs: Literal["trainer", "rollout"] = "trainer"
    """Denominator of the ratio: the trainer's own log-probs before the first update, or the servers'."""
    tis_cap: PositiveFloat | None = None
    """Truncated importance sampling: weight by min(cap, trainer / server probability). None: off."""
    kl_coef: NonNegativeFloat = 0.0
    """Weight of the KL term to the model that the run began with; 0 keeps no reference model."""
    kl_kind: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL; k1's gradient is zero in expectation."""


class ExploreLossSection(LossSection):
    """The same, with PPO's clipped ratio by default."""

    ratio: Literal["none", "token", "sequence"] = "token"
    """none: -A log pi; token: PPO's clipped ratio per token; sequence: one ratio per response (GSPO)."""


class OptimSection(Section):
    """The optimizer of a stage."""

    lr: PositiveFloat = 1e-6
    """Learning rate, after warm-up and before decay."""
    warmup_updates: NonNegativeInt = 0
    """Optimizer steps over which the rate rises from zero."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """From the end of warm-up to the end of the stage, to `min_lr`."""
    min_lr: NonNegativeFloat = 0.0
    """Where a decay ends."""
    reset: bool = True
    """Forget the moments when the stage opens, as a restart from its checkpoint would."""
    num_updates_per_rollout: PositiveInt = 1
    """Optimizer steps per rollout batch; 1 is strictly on-policy."""


class StageBase(Section):
    """What every stage has."""

    steps: PositiveInt = 200
    """Rollout batches in the stage; then the next one opens."""
    clip_len: PositiveInt = 4096
    """L, in output tokens (paper 3.3.1)."""
    rollout: SamplingSection = SamplingSection()
    """Sampling of the stage."""
    optim: OptimSection = OptimSection()
    """Optimizer of the stage."""


class CompressStage(StageBase):
    """Entropy-descending: positive-only, absolute advantage decayed with length, hard length clip (paper 3.3)."""

    name: Literal["compress"]
    """Which stage this is."""
    beta: PositiveFloat = 1.0
    """A = beta R. Without a KL or entropy term Adam cancels it; it only moves the clip and epsilon."""
    shape: ShapeSection = ShapeSection()
    """How R falls with length."""
    loss: LossSection = LossSection()
    """Reduction of the loss."""

    @property
    def max_new_tokens(self) -> int:
        """The generation cap in force."""
        return self.rollout.max_new_tokens or self.clip_len


class ExploreReward(Section):
    """R = R_format + R_answer + R_length (paper 3.4)."""

    answer: float = 1.0
    """For a right answer."""
    format: float = 0.2
    """For a well-formed, finished response."""
    length_slope: NonNegativeFloat = 0.25
    """Lost per `length_unit` tokens beyond clip_len."""
    length_unit: PositiveInt | None = None
    """Tokens; None: clip_len / 4, which is the paper's 1k at L = 4096."""
    length_floor: float = -1.0
    """R_length is never below this."""


class ExploreStage(StageBase):
    """Entropy-ascending: GRPO at a higher temperature with a mild length penalty (paper 3.4)."""

    name: Literal["explore"]
    """Which stage this is."""
    reward: ExploreReward = ExploreReward()
    """Terms of the reward."""
    advantage_scope: Literal["group", "batch"] = "group"
    """Statistics of A = (R - mean) / std over the prompt's group or over the whole batch."""
    advantage_eps: PositiveFloat = 1e-6
    """Added to the (unbiased) standard deviation."""
    loss: ExploreLossSection = ExploreLossSection()
    """Reduction of the loss."""

    @property
    def max_new_tokens(self) -> int:
        """The generation cap in force."""
        return self.rollout.max_new_tokens or 2 * self.clip_len


Stage = Annotated[CompressStage | ExploreStage, Field(discriminator="name")]


class CheckpointSection(Section):
    """When the run's state is committed."""

    every: PositiveInt = 10
    """Steps between checkpoints; the end of a stage is always committed, and stays."""
    keep: PositiveInt = 2
    """Newest checkpoints that stay besides the ends of stages."""


class ObserveSection(Section):
    """What a run keeps to be looked at."""

    rollouts_gib: NonNegativeFloat = 10.0
    """Disk space for every response of the newest steps, in GiB (`egrc rollouts`); the oldest go first. 0: none."""


class EvaluationSection(Section):
    """The table of base / compress / explore."""

    data: Path
    """JSONL or parquet of problems never trained on."""
    prompt_key: str | None = None
    """Field that holds the problem's text; None: data.prompt_key."""
    answer_key: str | None = None
    """Field that holds the gold answer; None: data.answer_key."""
    instruction: str | None = None
    """Text appended to every problem; None: data.instruction."""
    num_problems: PositiveInt = 256
    """Problems taken from the start of the file."""
    temperatures: tuple[PositiveFloat, ...] = (0.6, 1.0)
    """One row of the table each."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus at evaluation."""
    max_new_tokens: PositiveInt = 32768
    """Cap; a response cut by it counts at full length."""
    seed: NonNegativeInt = 12345
    """Sampling seed, the same for every point."""


class Config(Section):
    """A whole run."""

    run: RunSection
    """Folder and seed."""
    model: ModelSection
    """What to compress."""
    data: DataSection
    """What to train on."""
    rollout: RolloutSection = RolloutSection()
    """Servers."""
    sync: SyncSection = SyncSection()
    """Weights to the servers."""
    grading: GradingSection = GradingSection()
    """Graders."""
    megatron: MegatronSection = MegatronSection()
    """Layout and optimizer, megatron-core's names."""
    policy: PolicySection = PolicySection()
    """Update step."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """In order; each name at most once."""
    checkpoint: CheckpointSection = CheckpointSection()
    """Commits."""
    evaluation: EvaluationSection
    """Evaluation."""
    observe: ObserveSection = ObserveSection()
    """What is kept to be looked at."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for config.yaml and the report."""
        return self.model_dump(mode="json")
