"""Every option of the loss at TP2 and DP2, over two optimizer steps, against float64 written from the formulas."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from egrc_kernels.policy_loss import LossMetrics
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

OVER_DATA_RANKS = ["entropy", "sequence mask", "every correction"]
"""Losses that two data-parallel ranks compute as well: terms of whole responses and of whole batches."""
CASES = [*(("tp2", name) for name in LOSSES), *(("dp2", name) for name in OVER_DATA_RANKS)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The model, its reference, and what the ranks wrote for every loss."""
    base = tmp_path_factory.mktemp("losses")
    model = write_tiny_qwen2(base / "model", seed=0, vocab_size=41)
    reference = write_tiny_qwen2(base / "reference", seed=1, vocab_size=41)
    for layout, megatron, names in (
        ("tp2", {"tensor_model_parallel_size": 2}, [*LOSSES]),
        ("dp2", {}, OVER_DATA_RANKS),
    ):
        (base / "out" / layout).mkdir(parents=True)
        run_on_gloo(two_updates, 2, model, reference, megatron, names, base / "out" / layout)
    return model, reference, base / "out"


def double_model(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder).double()


def scores(model: torch.nn.Module, sample: TrainSample) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of every output token, and the entropy of what it was drawn from."""
    ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.output_ids])).long()[None]
    rows = torch.log_softmax(model(ids).logits[0, len(sample.prompt_ids) - 1 : -1] / TEMPERATURE, -1)
    chosen = torch.from_numpy(sample.output_ids).long()[:, None]
    return rows.gather(1, chosen)[:, 0], -(rows.exp() * rows).sum(-1)


def logprobs(model: torch.nn.Module, sample: TrainSample) -> torch.Tensor:
    return scores(model, sample)[0]


def ratios_of(old: torch.Tensor, server: torch.Tensor, own: list[int]) -> dict[int, float]:
    """Trainer / server probability of the tokens whose log-prob the server told."""
    return {t: math.exp(float(old[t] - server[t])) for t in own if not math.isnan(server[t])}


def whole(ratios: list[float], kind: str) -> float:
    """Of a response whose tokens have these ratios."""
    return math.prod(ratios) ** (1 / len(ratios) if kind == "geometric_mean" else 1)


def masked(old: torch.Tensor, server: torch.Tensor, own: list[int], loss: LossSection) -> tuple[set[int], bool]:
    """Tokens of a response that teach nothing, and whether that is because of the whole response."""
    trust = ratios_of(old, server, own)
    if loss.sequence_mask and trust:
        low, high = loss.sequence_mask
        ratios = [*trust.values()]
        if loss.sequence_mask_ratio != "worst_token":
            ratios = [whole(ratios, loss.sequence_mask_ratio)]
        if any(not low <= ratio <= high for ratio in ratios):
            return set(own), True
    low, high = loss.token_mask or (0.0, math.inf)
    return {t for t, ratio in trust.items() if not low <= ratio <= high}, False


def sample_loss(
    lp: torch.Tensor,
    old: torch.Tensor,
    ref: torch.Tensor,
    sample: TrainSample,
    loss: LossSection,
    entropies: torch.Tensor | None = None,
) -> torch.Tensor:
    """One response, token by token."""
    server = torch.from_numpy(sample.rollout_logprobs).double()
    own = [t for t, weight in enumerate(sample.loss_weights) if weight]
    base = [
        server[t] if loss.old_logprobs == "rollout" and not math.isnan(server[t]) else old[t] for t in range(len(lp))
    ]
    if loss.old_logprobs == "reference":
        base = [*ref]
    ignored, _whole = masked(old, server, own, loss)
    if sample.old_logprobs is not None:
        stated = torch.from_numpy(sample.old_logprobs).double()
        base = [own if math.isnan(said) else said for said, own in zip(stated, base, strict=True)]
    total = torch.zeros((), dtype=torch.float64)
    mean = torch.stack([lp[t] - base[t] for t in own]).mean()
    trust = ratios_of(torch.tensor(base, dtype=torch.float64), server, own)
    for t in own:
        a, w = float(sample.advantages[t]), float(sample.loss_weights[t])
        if loss.ratio == "none":
            objective = a * lp[t]
        elif loss.ratio == "capped":
            objective = a * min(math.exp(float(lp[t].detach() - base[t])), 1 + loss.eps_clip_high) * lp[t]
        else:
            ratio = (mean if loss.ratio == "sequence" else lp[t] - base[t]).exp()
            clipped = ratio.clamp(1 - loss.eps_clip, 1 + loss.eps_clip_high)
            objective = torch.minimum(a * ratio, a * clipped)
            if loss.dual_clip is not None and a < 0:
                objective = torch.maximum(objective, torch.tensor(loss.dual_clip * a, dtype=torch.float64))
        if loss.tis_cap is not None and loss.tis_ratio == "token":
            objective = objective * min(loss.tis_cap, trust.get(t, 1.0))
        elif loss.tis_cap is not None:
            objective = objective * min(loss.tis_cap, whole([*trust.values()], loss.tis_ratio))
        x = lp[t] - ref[t]
        kl = {"k1": x, "k2": x * x / 2, "k3": (-x).exp() - 1 + x}[loss.kl_kind]
        total = total - w * objective * (t not in ignored) + loss.kl_coef * w * kl
        if entropies is not None:
            total = total - loss.entropy_coef * w * entropies[t]
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
        value = torch.zeros((), dtype=torch.float64)
        for sample, own_old, own_ref in zip(samples, old, ref, strict=True):
            lp, entropies = scores(model, sample)
            value = value + sample_loss(lp, own_old, own_ref, sample, loss, entropies)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), ADAM["clip_grad"])
        adam.step()
        values.append(float(value.detach()))
    return values, {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_losses_and_weights_of_two_steps_match_float64(
    layout: str, name: str, folders: tuple[Path, Path, Path]
) -> None:
    model, reference, out = folders
    found = load_file(out / layout / f"{name}.safetensors")
    values, weights = reference_steps(model, reference, LossSection(**LOSSES[name]))
    assert values[0] != pytest.approx(values[1], abs=1e-4), "the second step must see other weights"
    assert found["losses"].tolist() == pytest.approx(values, rel=1e-5, abs=1e-6)
    before = double_model(model).state_dict()
    for key, expected in weights.items():
        moved = (expected - before[key]).norm()
        assert float((found[f"weight/{key}"].double() - expected).norm() / moved) <= 1e-3, key


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_what_is_masked_is_counted_over_all_ranks(layout: str, name: str, folders: tuple[Path, Path, Path]) -> None:
    model, _reference, out = folders
    metrics = LossMetrics(*load_file(out / layout / f"{name}.safetensors")["metrics"])
    loss, double, tokens, sequences = LossSection(**LOSSES[name]), double_model(model), 0, 0
    for sample in loss_batch():
        own = [t for t, weight in enumerate(sample.loss_weights) if weight]
        with torch.no_grad():
            old = logprobs(double, sample)
        ignored, whole = masked(old, torch.from_numpy(sample.rollout_logprobs).double(), own, loss)
        tokens, sequences = tokens + len(ignored), sequences + whole
    assert (int(metrics.num_masked), int(metrics.num_masked_sequences)) == (tokens, sequences)
    assert (0 < tokens < int(metrics.num_tokens)) == (loss.token_mask is not None or loss.sequence_mask is not None)
    assert (0 < sequences < len(loss_batch())) == (loss.sequence_mask is not None)


def test_the_swapped_reference_is_a_second_live_model_and_leaves_the_policy_as_it_was(
    folders: tuple[Path, Path, Path],
) -> None:
    _model, _reference, out = folders
    for file in out.glob("*/*"):
        found = load_file(file)
        assert bool(found["restored"])
        assert torch.equal(found["reference"], found["live"])


def test_the_options_differ(folders: tuple[Path, Path, Path]) -> None:
    values = [tuple(load_file(file)["losses"].tolist()) for file in (folders[2] / "tp2").iterdir()]
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
