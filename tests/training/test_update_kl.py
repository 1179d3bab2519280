"""A KL term whose reference differs from the policy, through whole updates, against float64: weights and the record."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.records import DROPPED, Credit
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.training.batch import Batch, build_batch
from egrc_mega.training.update import UpdateMetrics, run_updates
from egrc_mega.types import Grade, TrainSample

pytestmark = pytest.mark.usefixtures("world_of_one")

TEMPERATURE, COEFFICIENT, RATE = 0.7, 0.4, 2e-3
ADAM: dict[str, Any] = {"adam_eps": 1e-2, "weight_decay": 0.0, "clip_grad": 0.0}
"""A large epsilon: the step is smooth in the gradient, so float32 and float64 stay together."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The policy, and the reference that it has come away from."""
    base = tmp_path_factory.mktemp("kl")
    return write_tiny_qwen2(base / "policy", seed=0), write_tiny_qwen2(base / "reference", seed=1)


def stage(num_updates: int, kind: str = "k3") -> ExploreSection:
    return ExploreSection(
        rollout={"temperature": TEMPERATURE},
        optim={"lr": RATE, "num_updates_per_rollout": num_updates},
        loss={"ratio": "token", "kl_coef": COEFFICIENT, "kl_kind": kind},
    )


def batch_of(section: ExploreSection) -> Batch:
    """Four groups: samples with and without an advantage, tokens of an environment, an ungraded one in each."""
    rng = np.random.default_rng(3)
    groups, credits = [], []
    for g in range(4):
        sizes = rng.integers(3, 12, 3)
        ids = [rng.integers(0, 40, size) for size in sizes]
        masks = [[0 if t == 1 else 1 for t in range(size)] for size in sizes]
        samples = [make_sample(own, sampled=mask, version="elsewhere") for own, mask in zip(ids, masks, strict=True)]
        groups.append(make_group([*samples, make_sample([5, 6], grade=Grade.UNGRADED, version="elsewhere")]))
        signs = [1.0, -0.7, 0.0] if g % 2 else [-1.2, 0.0, 0.4]
        credits.append([*(Credit(advantage=a, kept=a != 0.0) for a in signs), DROPPED])
    return build_batch(groups, credits, section, "v0")


def double_logprobs(model: torch.nn.Module, sample: TrainSample) -> torch.Tensor:
    ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.output_ids])).long()[None]
    rows = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1] / TEMPERATURE
    return torch.log_softmax(rows, -1).gather(1, torch.from_numpy(sample.output_ids).long()[:, None])[:, 0]


def estimate(x: torch.Tensor, kind: str) -> torch.Tensor:
    return {"k1": x, "k2": x**2 / 2, "k3": torch.exp(-x) - 1 + x}[kind]


def double_run(
    folders: tuple[Path, Path], batch: Batch, kind: str
) -> tuple[dict[str, torch.Tensor], list[float], float]:
    """Weights after all updates, their losses, and the mean k3 to the reference before them."""
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder).double() for folder in folders)
    adam = torch.optim.AdamW(policy.parameters(), lr=RATE, betas=(0.9, 0.98), eps=1e-2, weight_decay=0.0)
    with torch.no_grad():
        old = [[double_logprobs(policy, s) for s in update] for update in batch.updates]
        ref = [[double_logprobs(reference, s) for s in update] for update in batch.updates]
    differences = [
        (o - r)[torch.from_numpy(s.sampled)]
        for olds, refs, update in zip(old, ref, batch.updates, strict=True)
        for o, r, s in zip(olds, refs, update, strict=True)
    ]
    losses = []
    for olds, refs, update in zip(old, ref, batch.updates, strict=True):
        total = torch.zeros((), dtype=torch.float64)
        for o, r, s in zip(olds, refs, update, strict=True):
            lp, w = double_logprobs(policy, s), torch.from_numpy(s.loss_weights).double()
            a, ratio = torch.from_numpy(s.advantages.copy()).double(), (lp - o).exp()
            objective = torch.minimum(a * ratio, a * ratio.clamp(0.8, 1.28))
            total = total + (w * (COEFFICIENT * estimate(lp - r, kind) - objective)).sum()
        adam.zero_grad()
        total.backward()
        adam.step()
        losses.append(float(total.detach()))
    weights = {name: p.detach() for name, p in policy.named_parameters()}
    return weights, losses, float(estimate(torch.cat(differences), "k3").mean())


def product_run(folders: tuple[Path, Path], batch: Batch, section: ExploreSection) -> tuple[Policy, UpdateMetrics]:
    policy, other = (Policy(f, MegatronSection(**ADAM), PolicySection(), keeps_reference=True) for f in folders)
    assert policy.reference is not None and other.reference is not None
    # as if the run had begun with the reference and come to the policy
    policy.reference.kept = other.reference.kept
    return policy, run_updates(policy, batch, section, PolicySection(), 0)


@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_updates_under_a_kl_term_are_those_of_float64(folders: tuple[Path, Path], num_updates: int, kind: str) -> None:
    section = stage(num_updates, kind)
    batch = batch_of(section)
    assert len(batch.updates) == num_updates
    # eight samples have an advantage; under KL all twelve graded ones are held, the ungraded four never
    assert (sum(map(len, batch.updates)), len(batch.dropped)) == (12, 4)
    expected, losses, kl = double_run(folders, batch, kind)
    policy, metrics = product_run(folders, batch, section)
    assert metrics.loss == pytest.approx(sum(losses) / num_updates, rel=1e-4)
    assert metrics.kl == pytest.approx(kl, rel=1e-4)
    before = AutoModelForCausalLM.from_pretrained(folders[0]).state_dict()
    for name, tensor in policy.export_hf():
        moved, wanted = tensor.double() - before[name].double(), expected[name] - before[name].double()
        torch.testing.assert_close(moved, wanted, rtol=1e-3, atol=1e-6, msg=name)


def test_without_a_kl_term_no_reference_is_asked_and_no_kl_told(folders: tuple[Path, Path]) -> None:
    section = ExploreSection(rollout={"temperature": TEMPERATURE}, optim={"lr": RATE})
    batch = batch_of(section)
    assert (sum(map(len, batch.updates)), len(batch.dropped)) == (8, 8)
    policy = Policy(folders[0], MegatronSection(**ADAM), PolicySection())
    assert run_updates(policy, batch, section, PolicySection(), 0).kl is None


def test_the_reported_kl_is_of_the_policys_tokens_before_the_updates(folders: tuple[Path, Path]) -> None:
    """It is the reference that differs: at the reference itself it is zero, whatever the environment wrote."""
    section = stage(2)
    batch = batch_of(section)
    policy = Policy(folders[0], MegatronSection(**ADAM), PolicySection(), keeps_reference=True)
    assert run_updates(policy, batch, section, PolicySection(), 0).kl == pytest.approx(0.0, abs=1e-9)
    again = run_updates(policy, batch, section, PolicySection(), 0).kl
    assert again is not None and again > 1e-6
