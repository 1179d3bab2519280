"""The policy in one process: import and export, agreement with transformers, updates, the optimizer's memory."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from egrc_mega.errors import ConfigError, ModelError, PolicyError
from egrc_mega.policy import engine
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.packing import Baselines
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2

pytestmark = pytest.mark.usefixtures("world_of_one")


def build(folder: Path, **megatron: object) -> Policy:
    return Policy(folder, MegatronSection(**megatron), PolicySection(max_tokens_per_micro_batch=4096))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab_size", [40, 509])
def test_export_of_the_import_is_bitwise_the_original(tmp_path: Path, tied: bool, vocab_size: int) -> None:
    folder = write_tiny_qwen2(tmp_path / "model", tie_word_embeddings=tied, vocab_size=vocab_size)
    original = load_file(folder / "model.safetensors")
    exported = dict(build(folder).export_hf())
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[name], original[name]) for name in original)


def test_a_bfloat16_checkpoint_survives_training_precision_bitwise(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model", dtype=torch.bfloat16)
    original = load_file(folder / "model.safetensors")
    policy = build(folder)
    assert policy.architecture.dtype == "bfloat16"
    assert all(torch.equal(tensor.bfloat16(), original[name]) for name, tensor in policy.export_hf())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_log_probs_agree_with_transformers_on_packed_ragged_input(tmp_path: Path, tied: bool, groups: int) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_tiny_qwen2(tmp_path / "model", tie_word_embeddings=tied, num_key_value_heads=groups)
    samples = ragged_samples()
    stats = build(folder).score(samples, 0.7)
    model = AutoModelForCausalLM.from_pretrained(folder)
    start = 0
    for sample in samples:
        with torch.no_grad():
            logits = model(torch.tensor([[*sample.prompt_ids, *sample.output_ids]])).logits[0]
        rows = logits[len(sample.prompt_ids) - 1 : -1]
        scaled = torch.log_softmax(rows / 0.7, -1)
        expected = scaled.gather(1, torch.from_numpy(sample.output_ids).long()[:, None])[:, 0]
        end = start + len(sample.output_ids)
        torch.testing.assert_close(stats.logprobs[start:end], expected, rtol=0, atol=1e-5)
        for field, logp in (("entropies_rollout", scaled), ("entropies", torch.log_softmax(rows, -1))):
            entropy = -(logp.exp() * logp).sum(-1)
            torch.testing.assert_close(getattr(stats, field)[start:end], entropy, rtol=0, atol=1e-5)
        start = end
    assert start == len(stats.logprobs)


def test_the_packing_budget_does_not_change_the_scores(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    samples = ragged_samples()
    policy = build(folder)
    whole = policy.score(samples, 1.0)
    policy.section = PolicySection(max_tokens_per_micro_batch=41)
    split = policy.score(samples, 1.0)
    torch.testing.assert_close(split.logprobs, whole.logprobs, rtol=0, atol=2e-6)


def test_scoring_moves_no_weight_and_updating_moves_them_all(tmp_path: Path) -> None:
    policy = build(write_tiny_qwen2(tmp_path / "model"))
    before = {name: tensor.clone() for name, tensor in policy.export_hf()}
    policy.score(ragged_samples(), 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.export_hf())
    policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in policy.export_hf())


def test_scoring_computes_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = build(write_tiny_qwen2(tmp_path / "model"))
    monkeypatch.setattr(engine, "policy_loss", lambda *_: pytest.fail("a loss that nobody asked for"))
    monkeypatch.setattr(engine, "TokenLoss", lambda *_: pytest.fail("a loss that nobody asked for"))
    samples = ragged_samples()
    assert len(policy.score(samples, 1.0).logprobs) == sum(len(sample.output_ids) for sample in samples)


def test_old_log_probs_equal_to_the_current_ones_change_nothing(tmp_path: Path) -> None:
    folder, samples, loss = write_tiny_qwen2(tmp_path / "model"), ragged_samples(), LossSection(ratio="token")
    first, second = build(folder), build(folder)
    implicit = first.update(samples, 0.9, loss, lr=1e-3)
    explicit = second.update(samples, 0.9, loss, lr=1e-3, baselines=Baselines(old=second.score(samples, 0.9).logprobs))
    assert explicit.grad_norm == pytest.approx(implicit.grad_norm, rel=1e-5)
    assert explicit.loss == pytest.approx(implicit.loss, rel=1e-5)


def test_the_inspector_can_stop_the_step_before_any_weight_moves(tmp_path: Path) -> None:
    policy = build(write_tiny_qwen2(tmp_path / "model"))
    before = {name: tensor.clone() for name, tensor in policy.export_hf()}

    def refuse(_stats: object) -> None:
        raise PolicyError("stop")

    with pytest.raises(PolicyError, match="stop"):
        policy.update(ragged_samples(), 1.0, LossSection(), lr=1.0, inspect=refuse)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.export_hf())


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_what_is_not_finite_stops_the_step_before_any_weight_moves(tmp_path: Path, what: str) -> None:
    policy = build(write_tiny_qwen2(tmp_path / "model"))
    if what == "loss":
        policy.pieces[0].decoder.final_layernorm.weight.data[0] = math.nan
    before = {name: tensor.clone() for name, tensor in policy.export_hf()}

    finalize = policy.config.finalize_model_grads_func

    def spoil(*args: object, **kwargs: object) -> None:
        finalize(*args, **kwargs)
        policy.model[0].buffers[0].grad_data[3] = math.inf

    policy.config.finalize_model_grads_func = spoil
    with pytest.raises(PolicyError, match=f"{what} is (nan|inf): the step is not taken"):
        policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3)
    for name, tensor in policy.export_hf():
        assert torch.equal(tensor.view(torch.int32), before[name].view(torch.int32)), name


@pytest.mark.parametrize("advantage", [math.inf, -math.inf])
def test_an_infinite_loss_is_told_as_such_before_its_gradient_is_looked_at(tmp_path: Path, advantage: float) -> None:
    policy = build(write_tiny_qwen2(tmp_path / "model"))
    samples = [replace(s, advantages=np.full(len(s.output_ids), advantage, np.float32)) for s in ragged_samples(3)]
    with pytest.raises(PolicyError, match=r"loss is -?inf: the step is not taken"):
        policy.update(samples, 1.0, LossSection(), lr=1e-3)


def test_a_reset_optimizer_steps_like_a_fresh_one(tmp_path: Path) -> None:
    folder, samples = write_tiny_qwen2(tmp_path / "model"), ragged_samples()
    used = build(folder)
    used.update(samples, 1.0, LossSection(), lr=1e-3)
    again = tmp_path / "again"
    folder.rename(again)
    save_file({name: tensor.contiguous() for name, tensor in used.export_hf()}, again / "model.safetensors")
    fresh = build(again)
    used.reset_optimizer()
    used.update(samples, 1.0, LossSection(), lr=1e-3)
    fresh.update(samples, 1.0, LossSection(), lr=1e-3)
    expected = dict(fresh.export_hf())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in used.export_hf())


def test_the_first_adam_step_has_the_size_of_the_learning_rate(tmp_path: Path) -> None:
    policy = build(write_tiny_qwen2(tmp_path / "model"), weight_decay=0.0)
    before = {name: tensor.clone() for name, tensor in policy.export_hf()}
    policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3)
    for name, tensor in policy.export_hf():
        assert float((tensor - before[name]).abs().max()) == pytest.approx(1e-3, rel=1e-2), name


def test_bfloat16_training_keeps_float32_masters(tmp_path: Path) -> None:
    policy = build(write_tiny_qwen2(tmp_path / "model"), bf16=True, weight_decay=0.0)
    assert {parameter.dtype for parameter in policy.pieces[0].parameters()} == {torch.bfloat16}
    # each step is far below a bf16 ulp of weights around 1; only masters can add them up
    before = policy.pieces[0].decoder.final_layernorm.weight.detach().clone()
    for _ in range(40):
        policy.update(ragged_samples(), 1.0, LossSection(), lr=3e-4)
    moved = (policy.pieces[0].decoder.final_layernorm.weight.detach() - before).abs().max()
    assert float(moved) > 0.005


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda t: t.update({"model.extra.weight": torch.zeros(1)}), "model.extra.weight is in no rule"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(3)}), r"model.norm.weight has shape \[3\]"),
    ],
)
def test_a_folder_whose_tensors_do_not_fit_is_refused_with_all_problems(tmp_path: Path, damage, message: str) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        build(folder)


def test_activation_recomputation_gives_the_same_update(tmp_path: Path) -> None:
    folder, samples = write_tiny_qwen2(tmp_path / "model"), ragged_samples()
    plain = build(folder)
    recomputed = build(folder, recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
    a = plain.update(samples, 1.0, LossSection(), lr=1e-3)
    b = recomputed.update(samples, 1.0, LossSection(), lr=1e-3)
    assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-6)


def test_kernels_that_cannot_run_here_are_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGRC_KERNELS", "auto")
    model = write_tiny_qwen2(tmp_path)
    with pytest.raises(ConfigError, match=r"policy\.kernels: triton: EGRC_KERNELS=triton, but the tensors are on cpu"):
        Policy(model, MegatronSection(), PolicySection(kernels="triton"))
    monkeypatch.setattr(engine.registry, "failures", {torch.device("cpu"): "no kernel starts"})
    with pytest.raises(
        ConfigError, match=r"policy\.kernels: triton: EGRC_KERNELS=triton, but no kernel starts; set it"
    ):
        Policy(model, MegatronSection(), PolicySection(kernels="triton"))
