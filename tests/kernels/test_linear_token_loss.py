"""Gradients in the forward pass are those of `linear_logprob` and the loss op, whole and in shards."""

from dataclasses import replace

import pytest
import torch
from egrc_kernels.linear_logprob import linear_logprob, linear_token_loss
from egrc_kernels.policy_loss import LossSettings, policy_loss

from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.kernel_worker import compare_token_loss_shards, token_loss_batch, token_loss_of

SETTINGS = LossSettings(ratio="token", dual_clip=3.0, tis_cap=1.5, kl_coef=0.1)


@pytest.mark.parametrize("chunk_rows", [1, 4, None])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("entropy_coef", [0.0, 0.3])
def test_loss_statistics_and_gradients_equal_the_two_pass_way(
    chunk_rows: int | None, scale: float, entropy_coef: float
) -> None:
    hidden, weight, targets, rows = token_loss_batch(11)
    chunk_bytes = chunk_rows and 4 * 40 * chunk_rows
    one = [x.clone().requires_grad_() for x in (hidden, weight)]
    loss, stats = linear_token_loss(
        *one,
        targets,
        token_loss_of(rows, SETTINGS),
        temperature=0.8,
        vocab_size=37,
        chunk_bytes=chunk_bytes,
        entropy_slopes_T=-entropy_coef * rows["weights"] if entropy_coef else None,
    )
    (scale * loss).backward()
    two = [x.clone().requires_grad_() for x in (hidden, weight)]
    expected = linear_logprob(*two, targets, temperature=0.8, vocab_size=37)
    whole = policy_loss(
        expected.logprob_T,
        rows["advantages"],
        rows["weights"],
        torch.tensor([0, 11], dtype=torch.int32),
        replace(SETTINGS, entropy_coef=entropy_coef),
        old_logprobs_R=rows["old"],
        rollout_logprobs_R=rows["rollout"],
        reference_logprobs_R=rows["reference"],
        entropies_R=expected.entropy_T,
    )
    (scale * whole.loss).backward()
    torch.testing.assert_close(loss, whole.loss)
    torch.testing.assert_close(tuple(stats), tuple(x.detach() for x in expected))
    for x, y in zip(one, two, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)
    assert not any(x.requires_grad for x in stats)


def test_a_row_without_target_has_no_gradient_whatever_the_loss_says() -> None:
    hidden, weight, targets, _rows = token_loss_batch(4)
    targets[2] = -100
    live = hidden.clone().requires_grad_()
    loss, _stats = linear_token_loss(live, weight, targets, lambda lp, _rows: (lp.sum(), torch.ones_like(lp)))
    loss.backward()
    assert live.grad[2].abs().max() == 0 and live.grad[1].abs().max() > 0


@pytest.mark.parametrize("ranks", [2])
def test_shards_of_the_vocabulary_give_what_the_whole_gives(ranks: int) -> None:
    run_on_gloo(compare_token_loss_shards, ranks)
