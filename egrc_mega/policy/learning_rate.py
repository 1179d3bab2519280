"""The learning rate of a stage, by megatron-core's scheduler: warm-up, then constant, linear or cosine decay."""

from types import SimpleNamespace
from typing import Any

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from egrc_mega.sections.stage import OptimSection


def learning_rate(section: OptimSection, update: int, num_updates: int) -> float:
    """The rate of optimizer step `update` (from 0) of `num_updates` in the stage; nothing of it needs a checkpoint."""
    optimizer: Any = SimpleNamespace(param_groups=[])
    scheduler = OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=section.lr,
        min_lr=min(section.min_lr, section.lr),
        lr_warmup_steps=section.warmup_updates,
        lr_decay_steps=num_updates,
        lr_decay_style=section.decay,
        start_wd=0.0,
        end_wd=0.0,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
    scheduler.num_steps = update + 1
    return float(scheduler.get_lr({}))
