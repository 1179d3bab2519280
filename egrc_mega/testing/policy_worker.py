"""What the ranks of the policy tests do: one update on a fixed batch, gradients and weights written down."""

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from egrc_kernels.linear_logprob import sizes
from safetensors.torch import save_file

from egrc_mega.checkpoint.store import CheckpointStore, load
from egrc_mega.policy import distributed, engine, layer_spec, model, optimizer
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.policy.weights import gather_hf, local_parameters
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.gloo import HANG_LIMIT_S
from egrc_mega.testing.samples import make_mask, make_train_sample
from egrc_mega.types import TrainSample


def ragged_samples(count: int = 13, *, seed: int = 0, vocab_size: int = 40) -> list[TrainSample]:
    """Samples of odd lengths, one-token outputs, masked tokens and advantages of both signs among them."""
    rng = random.Random(seed)
    samples = []
    for i in range(count):
        prompt = tuple(rng.randrange(vocab_size) for _ in range(rng.randint(1, 9)))
        output = tuple(rng.randrange(vocab_size) for _ in range(1 if i % 5 == 0 else rng.randint(2, 31)))
        mask = tuple(0 if len(output) > 4 and t % 4 == 2 else 1 for t in range(len(output)))
        samples.append(
            make_train_sample(
                prompt,
                output,
                sampled=mask,
                loss_weights=[bit / (sum(mask) * count) for bit in mask],
                advantages=0.0 if i == 3 else rng.uniform(-1.5, 1.5),
            )
        )
    return samples


def one_positive_sample() -> list[TrainSample]:
    """The same samples, only one with an advantage: all data-parallel ranks but one have nothing to learn."""
    samples = ragged_samples()
    return [
        replace(sample, advantages=np.full(len(sample.output_ids), 1.25 if i == 7 else 0.0, np.float32))
        for i, sample in enumerate(samples)
    ]


def masked_samples() -> list[TrainSample]:
    """The same samples, most of them drawn from a part of the vocabulary: of one token to all of them."""
    rng, found = random.Random(4), []
    for i, sample in enumerate(ragged_samples()):
        drawn = zip(sample.output_ids.tolist(), sample.sampled.tolist(), strict=True)
        masks = [_mask_around(token, rng) if is_sampled and i % 5 else [] for token, is_sampled in drawn]
        found.append(replace(sample, sampling_mask=make_mask(masks) if i % 4 else None))
    return found


def _mask_around(token: int, rng: random.Random, vocab_size: int = 40) -> list[int]:
    others = [other for other in range(vocab_size) if other != token]
    mask = [token, *rng.sample(others, rng.choice([0, 1, 2, 5, 39]))]
    rng.shuffle(mask)
    return mask


def reversed_samples() -> list[TrainSample]:
    """The same samples from last to first."""
    return ragged_samples()[::-1]


BATCHES = {
    "masked": masked_samples,
    "ragged": ragged_samples,
    "reversed": reversed_samples,
    "one positive": one_positive_sample,
}


def first_updates(model_path: Path, layouts: dict[str, tuple[dict[str, Any], int, str]], out: Path) -> None:
    """`first_update` at each layout (megatron section, budget, batch), in one world; writes `out`/<layout>."""
    distributed.initialize(MegatronSection(), timeout_s=HANG_LIMIT_S)
    for name, (megatron, budget, batch) in layouts.items():
        section = MegatronSection(**megatron)
        distributed.split_world(section, timeout_s=HANG_LIMIT_S)
        first_update(model_path, section, budget, BATCHES[batch](), out / f"{name}.safetensors")
    distributed.finalize()


def first_fused_updates(model_path: Path, layouts: dict[str, tuple[dict[str, Any], int, str]], out: Path) -> None:
    """The same with weight gradients added up inside the product, as on a GPU."""
    for module in (layer_spec, model):
        vars(module)["fuses_weight_gradients"] = lambda: True
    first_updates(model_path, layouts, out)


def first_updates_with_gradients_in_forward(
    model_path: Path, layouts: dict[str, tuple[dict[str, Any], int, str]], out: Path
) -> None:
    """The same with gradients of the loss made with the logits, a few rows at a time, as on a GPU."""
    vars(engine)["takes_gradient_in_forward"] = lambda loss, *_: not loss.needs_whole_responses
    vars(sizes)["CPU_BYTES"] = 4 * 40 * 7
    first_updates(model_path, layouts, out)


def resumed_updates(model_path: Path, megatron: dict[str, Any], out: Path) -> None:
    """Two updates, a commit, a third; the same third from the commit. Writes both ends, whole, to `out`."""
    section = MegatronSection(**megatron)
    distributed.initialize(section, timeout_s=HANG_LIMIT_S)
    store = CheckpointStore(out / "checkpoints", keep=1)

    undisturbed = Policy(model_path, section, PolicySection())
    updated(undisturbed, 2)
    store.save(2, undisturbed, {})
    ends = {"undisturbed": updated(undisturbed, 1)}
    resumed = Policy(model_path, section, PolicySection())
    load(out / "checkpoints" / "step_000002", resumed)
    ends["resumed"] = updated(resumed, 1)
    if distributed.is_rank_0():
        for name, weights in ends.items():
            save_file({key: weight.contiguous() for key, weight in weights.items()}, out / f"{name}.safetensors")
    distributed.finalize()


RING: tuple[dict[str, Any], ...] = (
    {},
    {"tensor_model_parallel_size": 2},
    {"pipeline_model_parallel_size": 2},
    {"context_parallel_size": 2},
    {},
)
"""Layouts of two ranks: data parallel, tensor, pipeline and context parallel, and back."""


def resharded_updates(model_path: Path, of_one_rank: Path, out: Path) -> None:
    """On two ranks a state goes from layout to layout through checkpoints, a last update included.

    Writes the last update's weights where the state has gone round (`round`) and where it stayed (`stayed`), and the
    weights of `of_one_rank`, a step that one rank has saved, as two tensor-parallel ranks load it (`from one`).
    """
    distributed.initialize(MegatronSection(), timeout_s=HANG_LIMIT_S)
    ends: dict[str, dict[str, torch.Tensor]] = {}
    for place, layout in enumerate(RING):
        section = MegatronSection(**layout)
        distributed.split_world(section, timeout_s=HANG_LIMIT_S)
        policy = Policy(model_path, section, PolicySection())
        if place:
            load(out / str(place - 1) / "step_000002", policy)
        else:
            updated(policy, 2)
        CheckpointStore(out / str(place), keep=1).save(2, policy, {})
        if place in (0, len(RING) - 1):
            ends["round" if place else "stayed"] = updated(policy, 1)
        if "tensor_model_parallel_size" in layout:
            load(of_one_rank, policy)
            ends["from one"] = updated(policy, 0)
    if distributed.is_rank_0():
        for name, weights in ends.items():
            save_file({key: weight.contiguous() for key, weight in weights.items()}, out / f"{name}.safetensors")
    distributed.finalize()


def updated(policy: Policy, times: int) -> dict[str, torch.Tensor]:
    """The whole weights after so many updates on the ragged samples."""
    for _ in range(times):
        policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-3)
    return {name: weight.clone() for name, weight in policy.export_hf()}


def overlapping_updates(model_path: Path, out: Path) -> None:
    """What each reader of weights sees right after steps, in many small buckets, with overlap and without."""
    distributed.initialize(MegatronSection(), timeout_s=HANG_LIMIT_S)
    original = optimizer.DistributedDataParallelConfig
    vars(optimizer)["DistributedDataParallelConfig"] = partial(original, bucket_size=1000)
    for overlaps in (False, True):
        # no clipping: the ranks' shards of each bucket decide in which order the norm is added up
        section = MegatronSection(overlap_grad_reduce=overlaps, overlap_param_gather=overlaps, clip_grad=0.0)
        budget = PolicySection(max_tokens_per_micro_batch=45)
        policy = Policy(model_path, section, budget, keeps_reference=True)
        assert policy.model[0].use_forward_hook is overlaps
        assert len(policy.model[0].bucket_groups) > 3 or not overlaps
        found: dict[str, torch.Tensor] = {}

        def step(times: int, policy: Policy = policy) -> None:
            for _ in range(times):
                policy.update(ragged_samples(), 1.0, LossSection(), lr=1e-2)

        step(2)
        found |= {f"exported/{name}": weight.clone() for name, weight in policy.export_hf()}
        step(1)
        found["reference"] = policy.score_reference(ragged_samples(), 1.0)
        found["after the reference"] = policy.score(ragged_samples(), 1.0).logprobs
        step(1)
        stored = {name: getattr(value, "data", None) for name, value in policy.sharded_model()["0"].items()}
        found |= {f"stored/{name}": value.clone() for name, value in stored.items() if value is not None}
        step(1)
        found["scored"] = policy.score(ragged_samples(), 1.0).logprobs
        if dist.get_rank() == 1:
            save_file({key: value.contiguous() for key, value in found.items()}, out / f"{overlaps}.safetensors")
    distributed.finalize()


def first_update(
    model_path: Path, section: MegatronSection, budget: int, samples: list[TrainSample], out: Path
) -> None:
    """One update; rank 0 writes loss, gradient norm, log-probs, gradients and new weights to `out` (safetensors)."""
    policy = Policy(model_path, section, PolicySection(max_tokens_per_micro_batch=budget))
    result: dict[str, torch.Tensor] = {}

    def note_gradients(stats: TokenStats) -> None:
        result["logprobs"] = stats.logprobs
        result["entropies"] = stats.entropies
        _complete_sharded_gradients(policy)
        parameters: dict[str, Any] = dict(local_parameters(policy.pieces))
        gradients = {name: parameter.main_grad for name, parameter in parameters.items()}
        for name, gradient in gather_hf(gradients, policy.architecture):
            result[f"grad/{name}"] = gradient.clone()

    update = policy.update(samples, 0.7, LossSection(ratio="token"), lr=1e-3, inspect=note_gradients)
    result["loss"] = torch.tensor(update.loss)
    result["grad_norm"] = torch.tensor(update.grad_norm)
    for name, weight in policy.export_hf():
        result[f"weight/{name}"] = weight.clone()
    if distributed.is_rank_0():
        save_file({name: tensor.contiguous() for name, tensor in result.items()}, out)


def _complete_sharded_gradients(policy: Policy) -> None:
    """With the distributed optimizer each rank holds the sum of its own shard only: gather the rest."""
    for buffer in (buffer for piece in policy.model for buffer in piece.buffers):
        size = buffer.data_parallel_group.size()
        for bucket in buffer.buckets:
            shards = list(bucket.grad_data.chunk(size))
            own = shards[buffer.data_parallel_group.rank()].clone()
            gathered = [torch.empty_like(own) for _ in range(size)]
            dist.all_gather(gathered, own, group=buffer.data_parallel_group)
            for shard, value in zip(shards, gathered, strict=True):
                shard.copy_(value)
