"""Learning rates of a run of two stages with several updates a rollout, against their closed forms."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from egrc_kernels.policy_loss import LossMetrics

from egrc_mega.methods.compress import CompressSection
from egrc_mega.policy.engine import UpdateResult
from egrc_mega.policy.flops import Work
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.sections.policy import PolicySection
from egrc_mega.sections.stage import StageSection
from egrc_mega.stages.progress import Progress, advance
from egrc_mega.testing.samples import make_train_sample
from egrc_mega.training.batch import Batch
from egrc_mega.training.update import run_updates
from egrc_mega.types import TrainSample

SAMPLE = make_train_sample((1,), (2, 3), loss_weights=0.5, advantages=1.0)
LINEAR = CompressSection(
    label="a",
    steps=5,
    optim={"lr": 2e-3, "decay": "linear", "min_lr": 5e-4, "warmup_updates": 3, "num_updates_per_rollout": 2},
)
COSINE = CompressSection(
    label="b", steps=4, optim={"lr": 1e-3, "decay": "cosine", "min_lr": 1e-4, "num_updates_per_rollout": 3}
)


class Rates:
    """A policy that notes the rate of each update, and nothing else."""

    work, dtype = Work(), torch.float32

    def __init__(self) -> None:
        self.rates: list[float] = []

    def score(self, samples: Sequence[TrainSample], _temperature: float) -> TokenStats:
        zeros = torch.zeros(sum(len(sample.output_ids) for sample in samples))
        return TokenStats(zeros, zeros, zeros)

    def update(
        self, samples: Any, temperature: float, _loss: Any, lr: float, _baselines: Any, inspect: Any = None
    ) -> Any:
        self.rates.append(lr)
        found = self.score(samples, temperature)
        if inspect:
            inspect(found)
        return UpdateResult(0.0, 0.0, found, LossMetrics(*torch.ones(len(LossMetrics._fields))))


def linear(update: int) -> float:
    """Warm-up to 2e-3 over 3 of 10 updates, then evenly down to 5e-4 at the last."""
    return 2e-3 * (update + 1) / 3 if update < 3 else 2e-3 - (2e-3 - 5e-4) * (update + 1 - 3) / (10 - 3)


def cosine(update: int) -> float:
    """Down from 1e-3 to 1e-4 at the last of 12 updates."""
    return 1e-4 + (1e-3 - 1e-4) * (1 + math.cos(math.pi * (update + 1) / 12)) / 2


def run(stages: Sequence[StageSection], num_kept: int | None = None) -> tuple[list[float], list[float | None]]:
    """The rates of all updates of a run, and the one that each step tells."""
    policy, told, progress = Rates(), [], Progress()
    while progress.stage < len(stages):
        stage = stages[progress.stage]
        count = stage.optim.num_updates_per_rollout if num_kept is None else num_kept
        batch = Batch(((SAMPLE,),) * count, ())
        metrics = run_updates(policy, batch, stage, PolicySection(), progress.step_in_stage)  # type: ignore[arg-type]
        told.append(metrics.lr)
        progress, _switch = advance(progress, stages, {})
    return policy.rates, told


def test_rates_follow_the_updates_of_each_stage() -> None:
    rates, told = run([LINEAR, COSINE])
    expected = [linear(u) for u in range(10)] + [cosine(u) for u in range(12)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert told == pytest.approx(expected[1:10:2] + expected[12::3], rel=1e-9)


def test_an_update_that_was_left_out_moves_no_later_rate() -> None:
    rates, _told = run([LINEAR], num_kept=1)
    assert rates == pytest.approx([linear(u) for u in range(0, 10, 2)], rel=1e-9)


def test_a_step_without_an_update_tells_no_rate() -> None:
    assert run([LINEAR], num_kept=0) == ([], [None] * 5)


def test_a_constant_rate_is_the_same_in_every_update() -> None:
    stage = CompressSection(steps=3, optim={"lr": 3e-4, "num_updates_per_rollout": 2})
    assert run([stage])[0] == [3e-4] * 6
