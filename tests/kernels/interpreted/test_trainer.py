"""The trainer with interpreted kernels does what it does with their references, and every kernel is called."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from egrc_kernels import registry
from transformers import AutoModelForCausalLM, AutoTokenizer

from egrc_mega.policy import engine
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.packing import Baselines
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.policy.token_loss import takes_gradient_in_forward
from egrc_mega.policy.weights import gather_hf, local_parameters
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.samples import make_train_sample
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import TrainSample

LAUNCHERS = {
    "logprob": ("row_partials", "row_gradients"),
    "linear_logprob": ("fused_partials", "write_tiles", "fused_gradients"),
    "policy_loss": ("loss_gradients_metrics",),
    "rmsnorm": ("rmsnorm", "rmsnorm_backward"),
    "swiglu": ("swiglu", "swiglu_backward"),
    "rope": ("rope",),
}
LEARNING_RATE = 1e-4
"""The quickstart's."""
LOSS = LossSection(ratio="token", tis_cap=2.0, kl_coef=0.1, entropy_coef=0.1, token_mask=(0.1, 3.0))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each launcher ran."""
    counts: dict[str, int] = {}
    for op, names in LAUNCHERS.items():
        module = import_module(f"egrc_kernels.{op}.triton")
        for name in names:
            monkeypatch.setattr(module, name, _counting(getattr(module, name), f"{op}.{name}", counts))
    return counts


def _counting(launcher: Any, name: str, counts: dict[str, int]) -> Any:
    def launch(*args: Any, **kwargs: Any) -> Any:
        counts[name] = counts.get(name, 0) + 1
        return launcher(*args, **kwargs)

    return launch


def miniature_samples(base_model: Path) -> list[TrainSample]:
    """What the base answers to six of its problems."""
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    model = AutoModelForCausalLM.from_pretrained(base_model)
    lines = (base_model.parent / "eval.jsonl").read_text().splitlines()[:6]
    samples = []
    for i, line in enumerate(lines):
        messages = [{"role": "user", "content": json.loads(line)["problem"]}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=30 + 11 * i)[0, len(prompt) :]
        samples.append(
            make_train_sample(
                prompt,
                output.tolist(),
                loss_weights=1 / (6 * len(output)),
                advantages=(-1) ** i * (1 + 0.1 * i),
                rollout_logprobs=-0.05,
            )
        )
    return samples


def launchers(*ops: str) -> set[str]:
    return {f"{op}.{name}" for op in ops for name in LAUNCHERS[op]}


FUSED_GRADIENTS = {"linear_logprob.fused_gradients"}


def one_update(
    model: Path, samples: list[TrainSample], kernels: str, fused: bool = False, loss: LossSection = LOSS
) -> dict[str, torch.Tensor]:
    section = PolicySection(kernels=kernels, max_tokens_per_micro_batch=150, fused_output_layer=fused)
    policy = Policy(model, MegatronSection(), section)
    scored = policy.score(samples, 0.8)
    baselines = Baselines(old=scored.logprobs - 0.1, reference=scored.logprobs + 0.05)
    gradients: dict[str, torch.Tensor] = {}

    def note_gradients(_stats: TokenStats) -> None:
        parameters: dict[str, Any] = dict(local_parameters(policy.pieces))
        held = {name: parameter.main_grad for name, parameter in parameters.items()}
        gradients.update({f"grad.{name}": g.clone() for name, g in gather_hf(held, policy.architecture)})

    result = policy.update(samples, 0.8, loss, LEARNING_RATE, baselines, note_gradients)
    found = {"scored": scored.logprobs, "loss": torch.tensor(result.loss), "grad_norm": torch.tensor(result.grad_norm)}
    found |= {"logprobs": result.stats.logprobs, "entropies": result.stats.entropies}
    found |= {"entropies_rollout": result.stats.entropies_rollout, "metrics": torch.stack(result.metrics)}
    return found | gradients | {name: weight.clone() for name, weight in policy.export_hf()}


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_one_batch_through_references_and_kernels(
    kind: str,
    base_model: Path,
    tmp_path: Path,
    calls: dict[str, int],
    world_of_one: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(registry.VARIABLE, "auto")
    if kind == "tied":
        model, samples = base_model, miniature_samples(base_model)
    else:
        model, samples = write_tiny_qwen2(tmp_path / "untied", tie_word_embeddings=False), ragged_samples(7)
    expected = one_update(model, samples, "reference")
    assert not calls
    found = one_update(model, samples, "triton", fused=kind == "untied")
    assert set(calls) == launchers(*LAUNCHERS) - (launchers("logprob") if kind == "untied" else FUSED_GRADIENTS)
    assert_same_update(found, expected)


def test_one_batch_whose_gradients_are_made_with_the_logits(
    tmp_path: Path, calls: dict[str, int], world_of_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: by exponentials, with the scores' bits; with an entropy term from logits, or, fused, in backward."""
    monkeypatch.setenv(registry.VARIABLE, "auto")
    model, samples = write_tiny_qwen2(tmp_path / "untied", tie_word_embeddings=False), ragged_samples(2)
    plain = LOSS.model_copy(update={"entropy_coef": 0.0})
    expected = {loss.entropy_coef: one_update(model, samples, "reference", loss=loss) for loss in (LOSS, plain)}
    on_gpu = torch.device("cuda")
    monkeypatch.setattr(
        engine, "takes_gradient_in_forward", lambda loss, _cpu, fused: takes_gradient_in_forward(loss, on_gpu, fused)
    )
    without_logits = launchers(*LAUNCHERS) - launchers("logprob")
    for fused, loss, launched in (
        (False, plain, without_logits - FUSED_GRADIENTS),
        (True, plain, without_logits - FUSED_GRADIENTS),
        (False, LOSS, launchers(*LAUNCHERS) - FUSED_GRADIENTS),
        (True, LOSS, without_logits),
    ):
        calls.clear()
        found = one_update(model, samples, "triton", fused, loss)
        assert set(calls) == launched
        assert torch.equal(found["scored"], found["logprobs"]) or launched & launchers("logprob")
        assert_same_update(found, expected[loss.entropy_coef])


def assert_same_update(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    differences = {}
    for name, value in expected.items():
        difference = found[name] - value
        if name.startswith("grad."):
            # the miniature is sure of its tokens: what is left of a tensor's gradient may be small against its parts
            differences[name] = float(difference.norm() / expected["grad_norm"])
        elif "." in name or name == "metrics":
            differences[name] = float(difference.norm() / value.norm())
        else:
            differences[name] = float(difference.abs().max())
    assert {name: difference for name, difference in differences.items() if difference > 1e-5} == {}
