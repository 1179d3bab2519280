"""Every option of the loss at TP2, over two optimizer steps, against float64 written from the formulas."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from egrc_mega.config.schema import LossSection
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.loss_worker import ADAM, LEARNING_RATE, TEMPERATURE, loss_batch, two_updates
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import TrainSample

LOSSES = {
    "none": {"ratio": "none"},
    "token": {"ratio": "token"},
    "token, tight clips": {"ratio": "token", "eps_clip": 1e-3, "eps_clip_high": 2e-3},
    "token, dual clip": {"ratio": "token", "dual_clip": 1.5, "old_logprobs": "rollout"},
    "sequence": {"ratio": "sequence", "eps_clip": 1e-3, "eps_clip_high": 2e-3},
    "sequence, old from the rollout": {"ratio": "sequence", "old_logprobs": "rollout"},
    "old from the rollout": {"ratio": "token", "old_logprobs": "rollout"},
    "truncated importance sampling": {"ratio": "token", "tis_cap": 1.2},
    "no ratio, truncated importance sampling": {"ratio": "none", "tis_cap": 0.9},
    "k1": {"ratio": "token", "kl_coef": 0.3, "kl_kind": "k1"},
    "k2": {"ratio": "token", "kl_coef": 0.3, "kl_kind": "k2"},
    "k3": {"ratio": "none", "kl_coef": 0.3, "kl_kind": "k3"},
    "everything": {"ratio": "sequence", "kl_coef": 0.2, "tis_cap": 1.1, "dual_clip": 2.0, "old_logprobs": "rollout"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The model, its reference, and what the ranks wrote for every loss."""
    base = tmp_path_factory.mktemp("losses")
    model = write_tiny_qwen2(base / "model", seed=0, vocab_size=41)
    reference = write_tiny_qwen2(base / "reference", seed=1, vocab_size=41)
    (base / "out").mkdir()
    losses = [LossSection(**options) for options in LOSSES.values()]
    run_on_gloo(two_updates, 2, model, reference, {"tensor_model_parallel_size": 2}, losses, base / "out")
    return model, reference, base / "out"


def double_model(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder).double()


def logprobs(model: torch.nn.Module, sample: TrainSample) -> torch.Tensor:
    ids = torch.tensor([sample.prompt_ids + sample.output_ids])
    rows = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1] / TEMPERATURE
    return torch.log_softmax(rows, -1).gather(1, torch.tensor(sample.output_ids)[:, None])[:, 0]


def sample_loss(
    lp: torch.Tensor, old: torch.Tensor, ref: torch.Tensor, sample: TrainSample, loss: LossSection
) -> torch.Tensor:
    """One response, token by token."""
    server = torch.tensor(sample.rollout_logprobs, dtype=torch.float64)
    own = [t for t, bit in enumerate(sample.mask) if bit]
    base = [
        server[t] if loss.old_logprobs == "rollout" and not math.isnan(server[t]) else old[t] for t in range(len(lp))
    ]
    total = torch.zeros((), dtype=torch.float64)
    whole = torch.stack([lp[t] - base[t] for t in own]).mean()
    for t in own:
        a, w = sample.advantage, sample.loss_weights[t]
        if loss.ratio == "none":
            objective = a * lp[t]
        else:
            ratio = (whole if loss.ratio == "sequence" else lp[t] - base[t]).exp()
            clipped = ratio.clamp(1 - loss.eps_clip, 1 + loss.eps_clip_high)
            objective = torch.minimum(a * ratio, a * clipped)
            if loss.dual_clip is not None and a < 0:
                objective = torch.maximum(objective, torch.tensor(loss.dual_clip * a, dtype=torch.float64))
        if loss.tis_cap is not None and not math.isnan(server[t]):
            objective = objective * min(loss.tis_cap, math.exp(base[t] - server[t]))
        elif loss.tis_cap is not None:
            objective = objective * min(loss.tis_cap, 1.0)
        x = lp[t] - ref[t]
        kl = {"k1": x, "k2": x * x / 2, "k3": (-x).exp() - 1 + x}[loss.kl_kind]
        total = total - w * objective + loss.kl_coef * w * kl
    return total


def reference_steps(model_path: Path, reference_path: Path, loss: LossSection) -> tuple[list[float], dict]:
    """Two AdamW steps in float64; old log-probs are those before the first."""
    model, reference, samples = double_model(model_path), double_model(reference_path), loss_batch()
    betas = (0.9, 0.98)
    adam = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, betas=betas, eps=ADAM["adam_eps"], weight_decay=ADAM["weight_decay"]
    )
    with torch.no_grad():
        old = [logprobs(model, sample) for sample in samples]
        ref = [logprobs(reference, sample) for sample in samples]
    values = []
    for _ in range(2):
        adam.zero_grad()
        value = sum(sample_loss(logprobs(model, s), o, r, s, loss) for s, o, r in zip(samples, old, ref, strict=True))
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), ADAM["clip_grad"])
        adam.step()
        values.append(float(value.detach()))
    return values, {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_weights_of_two_steps_match_float64(name: str, folders: tuple[Path, Path, Path]) -> None:
    model, reference, out = folders
    found = load_file(out / f"{list(LOSSES).index(name)}.safetensors")
    values, weights = reference_steps(model, reference, LossSection(**LOSSES[name]))
    assert values[0] != pytest.approx(values[1], abs=1e-4), "the second step must see other weights"
    assert found["losses"].tolist() == pytest.approx(values, rel=1e-5, abs=1e-6)
    before = double_model(model).state_dict()
    for key, expected in weights.items():
        moved = (expected - before[key]).norm()
        assert float((found[f"weight/{key}"].double() - expected).norm() / moved) <= 1e-3, key


def test_the_swapped_reference_is_a_second_live_model_and_leaves_the_policy_as_it_was(
    folders: tuple[Path, Path, Path],
) -> None:
    _model, _reference, out = folders
    for file in out.iterdir():
        found = load_file(file)
        assert bool(found["restored"])
        assert torch.equal(found["reference"], found["live"])


def test_the_options_differ(folders: tuple[Path, Path, Path]) -> None:
    values = [tuple(load_file(file)["losses"].tolist()) for file in folders[2].iterdir()]
    assert len(set(values)) == len(LOSSES)
