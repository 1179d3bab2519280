"""Gradients of the loss that are made with the logits: the same loss, gradients and statistics as in backward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from egrc_kernels.linear_logprob import sizes
from safetensors.torch import load_file

from egrc_mega.policy import engine, layer_spec
from egrc_mega.policy.engine import Policy, UpdateResult
from egrc_mega.policy.loss import LossRows
from egrc_mega.policy.packing import Baselines
from egrc_mega.policy.token_loss import BLOCK, TokenLoss, takes_gradient_in_forward
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.loss_worker import LOSSES, loss_batch, with_forced_tokens
from egrc_mega.testing.policy_worker import first_updates, first_updates_with_gradients_in_forward
from egrc_mega.testing.tiny_model import write_tiny_qwen2

TOKEN_LOSSES = {name: options for name, options in LOSSES.items() if not LossSection(**options).needs_whole_responses}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"), seed=0, vocab_size=41)


def updated(
    model_path: Path, options: dict[str, Any], has_old: bool, *, fused: bool = False
) -> tuple[UpdateResult, dict[str, torch.Tensor]]:
    section = PolicySection(max_tokens_per_micro_batch=150, fused_output_layer=fused)
    policy = Policy(model_path, MegatronSection(), section)
    samples = with_forced_tokens(loss_batch())
    before = policy.score(samples, 0.8).logprobs
    baselines = Baselines(old=before + 0.1 if has_old else None, reference=before - 0.1)
    gradients: dict[str, torch.Tensor] = {}

    def note(_stats: object) -> None:
        gradients.update({n: p.main_grad.clone() for n, p in policy.pieces[0].named_parameters()})

    return policy.update(samples, 0.8, LossSection(**options), 1e-3, baselines, note), gradients


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize("has_old", [False, True])
@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_both_ways_agree(model_path: Path, name: str, has_old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    in_backward, expected = updated(model_path, TOKEN_LOSSES[name], has_old)
    calls: list[int] = []

    def token_loss(*arguments: Any) -> TokenLoss:
        calls.append(1)
        return TokenLoss(*arguments)

    monkeypatch.setattr(engine, "TokenLoss", token_loss)
    monkeypatch.setattr(engine, "takes_gradient_in_forward", lambda *_: True)
    monkeypatch.setattr(sizes, "CPU_BYTES", 4 * 41 * 10)
    in_forward, found = updated(model_path, TOKEN_LOSSES[name], has_old)
    assert calls, "the other way was not taken"
    assert in_forward.loss == pytest.approx(in_backward.loss, rel=1e-5, abs=1e-6)
    assert in_forward.grad_norm == pytest.approx(in_backward.grad_norm, rel=1e-5)
    torch.testing.assert_close(torch.stack(in_forward.metrics), torch.stack(in_backward.metrics), rtol=1e-5, atol=1e-5)
    for field in ("logprobs", "entropies", "entropies_rollout"):
        values = [getattr(result.stats, field) for result in (in_forward, in_backward)]
        torch.testing.assert_close(*values, rtol=0, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_both_ways_agree_on_shards(tmp_path: Path, model_path: Path) -> None:
    layouts = {
        "tensor": ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, 100, "ragged"),
        "context": ({"context_parallel_size": 2}, 100, "ragged"),
        "data": ({}, 100, "one positive"),
    }
    for way, work in (("backward", first_updates), ("forward", first_updates_with_gradients_in_forward)):
        (tmp_path / way).mkdir()
        run_on_gloo(work, 2, model_path, layouts, tmp_path / way)
    for name in layouts:
        expected, found = (load_file(tmp_path / way / f"{name}.safetensors") for way in ("backward", "forward"))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5 if "weight" in key else 1e-6)


def test_the_number_of_rows_in_a_chunk_is_of_no_matter_and_may_be_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    num_rows = 2 * BLOCK + 40
    logprobs, advantages, old = torch.randn(3, num_rows, generator=generator)
    weights = torch.full((num_rows,), 0.01)
    rows = LossRows(advantages, weights, torch.tensor([0, num_rows], dtype=torch.int32), old, old_logprobs_R=old)
    results = []
    for size in (num_rows, BLOCK, 7):
        token_loss = TokenLoss(rows, LossSection(ratio="token"))
        places = [slice(start, min(num_rows, start + size)) for start in range(0, num_rows, size)]
        parts = [token_loss(logprobs[place], place) for place in places]
        results.append((sum(part[0] for part in parts), torch.cat([part[1] for part in parts]), token_loss.metrics()))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])
    nothing = TokenLoss(rows, LossSection(ratio="token")).metrics()
    assert (float(nothing.num_tokens), float(nothing.ratio_max)) == (0.0, -torch.inf)


def test_ratios_of_sequences_and_cpus_take_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert takes_gradient_in_forward(LossSection(ratio="none"), gpu)
    assert takes_gradient_in_forward(LossSection(ratio="token", kl_coef=0.1, tis_cap=2.0), gpu)
    assert takes_gradient_in_forward(LossSection(ratio="capped", entropy_coef=0.1, token_mask=(0.5, 5.0)), gpu)
    assert not takes_gradient_in_forward(LossSection(ratio="sequence"), gpu)
    assert not takes_gradient_in_forward(LossSection(ratio="token", sequence_mask=(0.9, 1.1)), gpu)
    assert not takes_gradient_in_forward(LossSection(ratio="token", tis_cap=2.0, tis_ratio="product"), gpu)
    assert not takes_gradient_in_forward(LossSection(ratio="none"), cpu)
    # of entropies the slope meets logits in memory, which a fused output layer has not
    assert takes_gradient_in_forward(LossSection(ratio="none"), gpu, without_logits=True)
    assert not takes_gradient_in_forward(LossSection(entropy_coef=0.1), gpu, without_logits=True)
    assert "forward" not in layer_spec.parts_in_use("auto")["log-probs and loss"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(layer_spec, "replaces_megatrons", lambda: True)
    assert "made in the forward pass" in layer_spec.parts_in_use("auto")["log-probs and loss"]
