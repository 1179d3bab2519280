"""What every stage of a run has: sampling, loss, optimizer, and the rules by which it ends."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from egrc_mega.sections.base import Section

IS_FACT = "fact"
FactName = Annotated[str, IS_FACT]
"""The type of a field of a method's section that names a fact of the problems (`data.facts`) which the method needs."""


class SamplingSection(Section):
    """How rollouts are drawn in a stage."""

    n: PositiveInt = 8
    """Samples per prompt: the group."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature; log-probs and the loss use logits divided by it."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus: below 1 tokens are drawn from the likeliest ones that together have this probability, and `top_k` bounds
    how many these may be. Log-probs, ratios and the loss are then over what each token was drawn from."""
    top_k: Annotated[int, Field(ge=2, le=4096)] | None = None
    """Tokens are drawn from so many at most (4096: what SGLang names); None: from the whole vocabulary."""
    max_new_tokens: PositiveInt | None = None
    """Generation cap on |y|; None: the method's own, for instance clip_len in compress and 2 x clip_len in explore."""
    drop_groups: Literal["never", "all_right_or_wrong", "no_advantage"] = "never"
    """Dynamic sampling: groups of this kind are dropped, and others are asked for in their place. DAPO drops those
    whose answers are all right or all wrong; `no_advantage` asks the shaped reward instead."""


TrustedRange = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(gt=1)]]
"""Lowest and highest ratio of trainer to server probability that is trusted."""


class LossSection(Section):
    """How token terms become one scalar. The kernel's own settings have the same names and the same bounds."""

    agg: Literal["seq-mean-token-mean", "token-mean", "seq-mean-token-sum"] = "seq-mean-token-mean"
    """1/|o| within a sequence then the mean over sequences (paper 3.1); the mean over tokens; or the sum within a
    sequence, divided by `sum_divisor`, then the mean over sequences (Dr.GRPO)."""
    sum_divisor: PositiveFloat = 1.0
    """The constant of `seq-mean-token-sum`, in tokens: 3000 in Dr.GRPO's code."""
    denominator: Literal["all", "kept"] = "all"
    """Sequences or tokens to divide by: all rollouts of the batch, or those with an advantage."""
    class_weights: tuple[NonNegativeFloat, ...] = (1.0,)
    """Weights of the classes that a method sorts tokens into; each class has a mean of its own (Thinkless)."""
    ratio: Literal["none", "token", "sequence", "capped"] = "none"
    """none: -A log pi; token: PPO's clipped ratio per token; sequence: one ratio per response (GSPO); capped: -A log pi
    times the ratio, which has no gradient and goes up to 1 + eps_clip_high, down to 0 (CISPO)."""
    eps_clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip of the ratio: 1 - eps_clip."""
    eps_clip_high: PositiveFloat = 0.28
    """Upper clip of the ratio: 1 + eps_clip_high."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bound on the loss of a negative advantage, as a multiple of it; None: unbounded."""
    old_logprobs: Literal["trainer", "rollout", "reference"] = "trainer"
    """Denominator of the ratio: the trainer's own log-probs before the first update, the servers', or those of the
    model that the run began with (O1-Pruner)."""
    tis_cap: PositiveFloat | None = None
    """Truncated importance sampling: weight by min(cap, trainer / server probability). None: off."""
    tis_ratio: Literal["token", "geometric_mean", "product"] = "token"
    """Whose ratio `tis_cap` truncates: the token's own, or that of its whole response, as geometric mean or as product
    of its tokens' ratios."""
    token_mask: TrustedRange | None = None
    """[low, high]: a token whose trainer / server probability lies outside teaches nothing; with `tis_cap` at `high`
    this is IcePop. The denominator still counts the token, and KL and entropy still hold it. None: off."""
    sequence_mask: TrustedRange | None = None
    """[low, high]: a response whose `sequence_mask_ratio` lies outside teaches nothing; by `product`, with a `tis_cap`
    at `high` and `tis_ratio: product`, this is masked importance sampling of sequences. None: off."""
    sequence_mask_ratio: Literal["geometric_mean", "product", "worst_token"] = "geometric_mean"
    """Of trainer / server probability: its geometric mean or its product over the response's tokens, or any single
    token's."""
    kl_coef: NonNegativeFloat = 0.0
    """Weight of the KL term to the model that the run began with; 0 keeps no reference model."""
    kl_kind: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL, x = log pi - log ref. In expectation k2 has the gradient of KL(pi||ref), which holds pi to
    what ref would say; k3 that of KL(ref||pi), which holds pi to say all that ref would; k1's is zero."""
    entropy_coef: NonNegativeFloat = 0.0
    """Weight of the token entropy at the sampling temperature, which the loss rewards; like the KL term it is a mean
    over every graded response, whatever its advantage."""

    @property
    def holds_all(self) -> bool:
        """Whether a term holds every graded response, whatever its advantage."""
        return self.kl_coef > 0 or self.entropy_coef > 0

    @property
    def needs_reference(self) -> bool:
        """Whether a term looks at the log-probs of the model that the run began with."""
        return self.kl_coef > 0 or self.old_logprobs == "reference"

    @property
    def needs_whole_responses(self) -> bool:
        """Whether a token's term depends on the other tokens of its response."""
        return self.ratio == "sequence" or self.sequence_mask is not None or self.has_sequence_tis

    @property
    def has_sequence_tis(self) -> bool:
        """Whether truncated importance sampling gives the tokens of a response one weight."""
        return self.tis_cap is not None and self.tis_ratio != "token"


class OptimSection(Section):
    """The optimizer of a stage."""

    lr: PositiveFloat = 1e-6
    """Learning rate, after warm-up and before decay."""
    warmup_updates: NonNegativeInt = 0
    """Optimizer steps over which the rate rises from zero."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """From the end of warm-up to the last update of the stage's `steps`, which has the rate `min_lr`."""
    min_lr: NonNegativeFloat = 0.0
    """Rate of the last update of a decay: with 0 that update moves nothing."""
    reset: bool = True
    """Forget the moments when the stage opens, as a restart from its checkpoint would."""
    num_updates_per_rollout: PositiveInt = 1
    """Optimizer steps per rollout batch; 1 is strictly on-policy."""


class PlateauSection(Section):
    """Ends a stage before its last step, once its curves say that it has no more to give (paper 3.2, 4.3)."""

    min_steps: PositiveInt = 100
    """The stage goes on for so many steps whatever its curves say."""
    window: PositiveInt = 30
    """Steps over which the moving means must stand still."""
    ema_steps: PositiveInt = 20
    """Span of the exponential moving means of entropy, length and accuracy: a new value weighs 2 / (span + 1)."""
    rel_length: NonNegativeFloat = 0.02
    """The mean length stands still when it moves by at most this share over the window."""
    rel_entropy: NonNegativeFloat = 0.03
    """The same for the token entropy."""
    checks: PositiveInt = 3
    """Steps in a row at which both must stand still: a single quiet moment ends nothing."""
    hysteresis: Annotated[float, Field(ge=1)] = 1.5
    """Once both stand still, only a move of more than so many times the two shares starts the count anew."""
    accuracy_guard: Annotated[float, Field(gt=0, le=1)] | None = 0.1
    """The stage ends at once when the mean accuracy falls this far below its best; None: it may fall."""
    entropy_floor: PositiveFloat | None = None
    """The stage ends at once when the mean entropy falls below this (nats); None: no floor."""


class StageSection(Section):
    """A stage: a method, how long it runs, and what it is run with. Each method adds fields of its own."""

    method: str
    """Which method the stage trains with; `egrc config show --methods` lists them."""
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    """The stage's name in tables, plots and overrides; None: its method. Two stages of one method need labels."""
    steps: PositiveInt = 200
    """Rollout batches in the stage, at most; then the next stage opens."""
    plateau: PlateauSection | None = None
    """Rules that may end the stage earlier, by its measured curves; None: it runs for all its steps."""
    rollout: SamplingSection = SamplingSection()
    """Sampling of the stage."""
    optim: OptimSection = OptimSection()
    """Optimizer of the stage."""
    loss: LossSection = LossSection()
    """Reduction of the loss."""

    @property
    def name(self) -> str:
        """The label, or the method where none is given."""
        return self.label or self.method
