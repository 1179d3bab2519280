"""Every option of the loss at TP2, over two optimizer steps, against float64 written from the formulas."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from egrc_mega.policy.engine import Policy
from egrc_mega.policy.packing import Baselines
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.policy.weights import gather_hf, local_parameters
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.loss_worker import (
    ADAM,
    LEARNING_RATE,
    LOSSES,
    TEMPERATURE,
    loss_batch,
    two_updates,
    with_forced_tokens,
)
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import TrainSample


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
    ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.output_ids])).long()[None]
    rows = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1] / TEMPERATURE
    return torch.log_softmax(rows, -1).gather(1, torch.from_numpy(sample.output_ids).long()[:, None])[:, 0]


def sample_loss(
    lp: torch.Tensor, old: torch.Tensor, ref: torch.Tensor, sample: TrainSample, loss: LossSection
) -> torch.Tensor:
    """One response, token by token."""
    server = torch.from_numpy(sample.rollout_logprobs).double()
    own = [t for t, weight in enumerate(sample.loss_weights) if weight]
    base = [
        server[t] if loss.old_logprobs == "rollout" and not math.isnan(server[t]) else old[t] for t in range(len(lp))
    ]
    if sample.old_logprobs is not None:
        stated = torch.from_numpy(sample.old_logprobs).double()
        base = [own if math.isnan(said) else said for said, own in zip(stated, base, strict=True)]
    total = torch.zeros((), dtype=torch.float64)
    whole = torch.stack([lp[t] - base[t] for t in own]).mean()
    for t in own:
        a, w = float(sample.advantages[t]), float(sample.loss_weights[t])
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


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize("has_baseline", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"ratio": "token"}, {"ratio": "sequence"}, {"ratio": "token", "old_logprobs": "rollout", "tis_cap": 1.2}],
    ids=["token", "sequence", "over the rollout's"],
)
def test_an_old_log_prob_that_a_method_states_goes_before_all_others(
    options: dict, has_baseline: bool, tmp_path: Path
) -> None:
    loss = LossSection(**options)
    folder = write_tiny_qwen2(tmp_path / "model", seed=0, vocab_size=41)
    samples, double = with_forced_tokens(loss_batch()), double_model(folder)
    present = [logprobs(double, sample) for sample in samples]
    old = [lp.detach() + (0.2 if has_baseline else 0.0) for lp in present]
    value = sum(sample_loss(lp, o, o, s, loss) for s, lp, o in zip(samples, present, old, strict=True))
    value.backward()
    gradients: dict[str, torch.Tensor] = {}
    policy = Policy(folder, MegatronSection(), PolicySection(max_tokens_per_micro_batch=150))

    def note_gradients(_stats: TokenStats) -> None:
        held = {name: p.main_grad for name, p in local_parameters(policy.pieces).items()}
        gradients.update({name: g.clone() for name, g in gather_hf(held, policy.architecture)})

    baselines = Baselines(old=torch.cat(old).float() if has_baseline else None)
    found = policy.update(samples, TEMPERATURE, loss, LEARNING_RATE, baselines, note_gradients)
    assert found.loss == pytest.approx(float(value.detach()), rel=1e-5, abs=1e-6)
    for name, parameter in double.named_parameters():
        torch.testing.assert_close(gradients[name].double(), parameter.grad, rtol=1e-4, atol=1e-6)
