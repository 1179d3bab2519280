"""Checks of a stage's loss: options that contradict each other, or that the layout does not allow."""

from collections.abc import Iterator

from egrc_mega.errors import ConfigError
from egrc_mega.sections.stage import LossSection, StageSection


def loss_problems(stage: StageSection, context_parallel_size: int) -> Iterator[ConfigError]:
    """What makes no sense in the loss of a stage, one error for each."""
    loss = stage.loss
    for problem in (*_reduction_problems(loss), *_ratio_problems(loss), *_mismatch_problems(loss)):
        yield ConfigError(f"stages.{stage.name}.loss.{problem}")
    for name, value, is_given in (
        ("ratio", loss.ratio, loss.ratio == "sequence"),
        ("tis_ratio", loss.tis_ratio, loss.has_sequence_tis),
        ("sequence_mask", _shown(loss.sequence_mask), loss.sequence_mask is not None),
    ):
        if context_parallel_size > 1 and is_given:
            yield ConfigError(
                f"stages.{stage.name}.loss.{name}: {value} needs whole responses on a rank; set "
                f"megatron.context_parallel_size to 1"
            )


def _reduction_problems(loss: LossSection) -> Iterator[str]:
    if loss.sum_divisor != 1 and loss.agg != "seq-mean-token-sum":
        yield f"sum_divisor: {loss.sum_divisor:g}, but agg {loss.agg} divides by no constant; set seq-mean-token-sum"


def _ratio_problems(loss: LossSection) -> Iterator[str]:
    if loss.ratio == "none" and loss.old_logprobs != "trainer":
        yield f"old_logprobs: {loss.old_logprobs}, but with ratio none there is nothing to divide; set ratio to token"
    if loss.ratio in ("none", "capped") and loss.dual_clip is not None:
        yield f"dual_clip: {loss.dual_clip:g}, but ratio {loss.ratio} clips no objective; leave it out"


def _mismatch_problems(loss: LossSection) -> Iterator[str]:
    """Of what compares trainer and servers: `old_logprobs` must then be the trainer's."""
    for name in ("token_mask", "sequence_mask"):
        if getattr(loss, name) is not None and loss.old_logprobs != "trainer":
            yield (
                f"{name}: {_shown(getattr(loss, name))} compares the trainer with the servers, but old_logprobs is "
                f"{loss.old_logprobs}; set it to trainer"
            )
    if loss.tis_cap is not None and loss.old_logprobs == "reference":
        yield (
            f"tis_cap: {loss.tis_cap:g} weighs the trainer against the servers, but old_logprobs is reference; set it "
            f"to trainer, or leave tis_cap out"
        )
    if loss.tis_cap is None and loss.tis_ratio != "token":
        yield f"tis_ratio: {loss.tis_ratio}, but tis_cap is null; give it the largest weight, for instance 2"
    if loss.sequence_mask is None and loss.sequence_mask_ratio != "geometric_mean":
        yield f"sequence_mask_ratio: {loss.sequence_mask_ratio}, but sequence_mask is null; give it [low, high]"


def _shown(trusted: tuple[float, float] | None) -> str:
    return "null" if trusted is None else f"[{trusted[0]:g}, {trusted[1]:g}]"
