"""Options of the loss that contradict each other, or the layout, are refused with field, value and remedy."""

from typing import Any

import pytest

from egrc_mega.config.check_loss import loss_problems
from egrc_mega.methods.explore import ExploreSection


def messages(context_parallel_size: int = 1, **loss: Any) -> list[str]:
    stage = ExploreSection(label="second", loss=loss)
    return [str(problem) for problem in loss_problems(stage, context_parallel_size)]


@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"ratio": "capped", "entropy_coef": 0.1, "kl_coef": 0.1},
        {"ratio": "token", "dual_clip": 3.0, "old_logprobs": "rollout", "tis_cap": 2.0},
        {"ratio": "sequence", "old_logprobs": "reference"},
        {"agg": "seq-mean-token-sum", "sum_divisor": 3000},
        {"token_mask": (0.5, 5.0), "tis_cap": 5.0, "sequence_mask": (0.9, 1.1), "sequence_mask_ratio": "worst_token"},
        {"tis_cap": 5.0, "tis_ratio": "product", "sequence_mask": (0.0, 5.0), "sequence_mask_ratio": "product"},
    ],
)
def test_what_makes_sense_passes(loss: dict[str, Any]) -> None:
    assert messages(**loss) == []


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            {"sum_divisor": 3000},
            "sum_divisor: 3000, but agg seq-mean-token-mean divides by no constant; set seq-mean-token-sum",
        ),
        (
            {"ratio": "none", "old_logprobs": "reference"},
            "old_logprobs: reference, but with ratio none there is nothing to divide; set ratio to token",
        ),
        ({"ratio": "none", "dual_clip": 3.0}, "dual_clip: 3, but ratio none clips no objective; leave it out"),
        ({"ratio": "capped", "dual_clip": 3.0}, "dual_clip: 3, but ratio capped clips no objective; leave it out"),
        (
            {"token_mask": (0.5, 5.0), "old_logprobs": "rollout"},
            "token_mask: [0.5, 5] compares the trainer with the servers, but old_logprobs is rollout; set it to "
            "trainer",
        ),
        (
            {"sequence_mask": (0.5, 5.0), "old_logprobs": "reference"},
            "sequence_mask: [0.5, 5] compares the trainer with the servers, but old_logprobs is reference; set it to "
            "trainer",
        ),
        (
            {"tis_cap": 2.0, "old_logprobs": "reference"},
            "tis_cap: 2 weighs the trainer against the servers, but old_logprobs is reference; set it to trainer, or "
            "leave tis_cap out",
        ),
        (
            {"tis_ratio": "product"},
            "tis_ratio: product, but tis_cap is null; give it the largest weight, for instance 2",
        ),
        (
            {"sequence_mask_ratio": "worst_token"},
            "sequence_mask_ratio: worst_token, but sequence_mask is null; give it [low, high]",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_field_value_and_remedy(loss: dict[str, Any], message: str) -> None:
    given = {"ratio": "token", **loss}
    assert messages(**given) == [f"stages.second.loss.{message}"]


@pytest.mark.parametrize(
    ("loss", "field"),
    [
        ({"ratio": "sequence"}, "ratio: sequence"),
        ({"sequence_mask": (0.9, 1.1)}, "sequence_mask: [0.9, 1.1]"),
        ({"tis_cap": 2.0, "tis_ratio": "product"}, "tis_ratio: product"),
    ],
)
def test_whole_responses_do_not_go_with_context_parallelism(loss: dict[str, Any], field: str) -> None:
    assert messages(2, **loss) == [
        f"stages.second.loss.{field} needs whole responses on a rank; set megatron.context_parallel_size to 1"
    ]
