"""Whose gradient each estimator of the KL has, in expectation over the policy's tokens, exactly on a categorical."""

from collections.abc import Callable

import pytest
import torch

from egrc_mega.policy.loss import LossRows, policy_loss
from egrc_mega.sections.stage import LossSection

VOCABULARY = 23


def gradient_of(estimator: str, logits_V: torch.Tensor, reference_V: torch.Tensor) -> torch.Tensor:
    """Of the loss's KL term, each token weighed by its probability."""
    logits_V = logits_V.clone().requires_grad_()
    logprobs_V = logits_V.log_softmax(0)
    rows = LossRows(
        advantages_R=torch.zeros(VOCABULARY),
        weights_R=logprobs_V.detach().exp(),
        boundaries_S=torch.tensor([0, VOCABULARY], dtype=torch.int32),
        rollout_logprobs_R=torch.full((VOCABULARY,), torch.nan),
        reference_logprobs_R=reference_V.log_softmax(0),
    )
    policy_loss(logprobs_V, rows, LossSection(kl_coef=1.0, kl_kind=estimator)).loss.backward()
    assert logits_V.grad is not None
    return logits_V.grad


def pi_to_reference(p_V: torch.Tensor, q_V: torch.Tensor) -> torch.Tensor:
    return (p_V.exp() * (p_V - q_V)).sum()


def reference_to_pi(p_V: torch.Tensor, q_V: torch.Tensor) -> torch.Tensor:
    return (q_V.exp() * (q_V - p_V)).sum()


def nothing(p_V: torch.Tensor, q_V: torch.Tensor) -> torch.Tensor:
    return 0 * p_V.sum()


@pytest.mark.parametrize(
    ("estimator", "divergence"), [("k1", nothing), ("k2", pi_to_reference), ("k3", reference_to_pi)]
)
def test_each_estimator_has_the_gradient_that_its_field_names(
    estimator: str, divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_V, reference_V = (torch.randn(VOCABULARY, generator=generator) for _ in range(2))
    exact_V = logits_V.double().requires_grad_()
    divergence(exact_V.log_softmax(0), reference_V.double().log_softmax(0)).backward()
    assert exact_V.grad is not None
    torch.testing.assert_close(gradient_of(estimator, logits_V, reference_V), exact_V.grad.float(), atol=1e-6, rtol=0)


def test_the_field_says_whose_gradient_an_estimator_has() -> None:
    text = " ".join(str(LossSection.model_fields["kl_kind"].description).split())
    assert "k2 has the gradient of KL(pi||ref)" in text
    assert "k3 that of KL(ref||pi)" in text
    assert "k1's is zero" in text
