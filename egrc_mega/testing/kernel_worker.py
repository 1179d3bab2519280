"""What the ranks of the kernel tests do."""

import datetime
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from egrc_kernels.linear_logprob import exponentials, in_forward, linear_logprob, linear_token_loss
from egrc_kernels.linear_logprob.in_forward import TokenLoss
from egrc_kernels.masked_logprob import SamplingMasks, masked_logprob
from egrc_kernels.policy_loss import LossSettings, policy_loss
from egrc_kernels.registry import is_interpreting

from egrc_mega.testing.gloo import HANG_LIMIT_S


def compare_shards() -> None:
    """Sharded values and gradients against the unsharded ones: 11 real columns, the last shards padded or empty."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=HANG_LIMIT_S))
    rank, size = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 16, generator=generator)
    weight = torch.zeros(24, 16)
    weight[:11] = torch.randn(11, 16, generator=generator)
    # every column is some row's target, the largest of its shard among them
    targets = torch.cat([(hidden @ weight[:11].T).argmax(1)[:3], torch.randint(11, (6,), generator=generator)])
    factor = torch.randn(9, generator=generator)
    for temperature, fuses in product((0.7, 1.0), (False, True)[: 1 + is_interpreting()]):
        whole = [x.clone().requires_grad_() for x in (hidden, weight[:11])]
        expected = linear_logprob(whole[0], whole[1], targets, temperature=temperature)
        (expected.logprob_T * factor).sum().backward()
        shard = [hidden.clone().requires_grad_(), weight.chunk(size)[rank].clone().requires_grad_()]
        found = linear_logprob(
            shard[0],
            shard[1],
            targets,
            temperature=temperature,
            vocab_size=11,
            group=dist.group.WORLD,
            chunk_bytes=96,
            fuses_gradients=fuses,
        )
        (found.logprob_T * factor).sum().backward()
        torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-5, atol=1e-5)
        gradients = [x.grad if x.grad is not None else torch.empty(0) for x in (*shard, *whole)]
        dist.all_reduce(gradients[0])
        torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-5, atol=1e-5)
        padded = torch.zeros(24, 16)
        padded[:11] = gradients[3]
        torch.testing.assert_close(gradients[1], padded.chunk(size)[rank], rtol=1e-5, atol=1e-5)
    dist.destroy_process_group()


def compare_interpreted_shards() -> None:
    """The same with Triton's interpreted kernels, in chunks and fused."""
    assert is_interpreting()
    compare_shards()


def token_loss_batch(num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states, a weight of 37 real rows of 40, targets, and what a token-level loss knows of each row."""
    generator = torch.Generator().manual_seed(8)
    hidden, weight = torch.randn(num_rows, 16, generator=generator), 0.2 * torch.randn(40, 16, generator=generator)
    targets = torch.randint(37, (num_rows,), generator=generator)
    noise = -3.6 + 0.5 * torch.randn(5, num_rows, generator=generator)
    names = ("advantages", "old", "rollout", "reference")
    rows = dict(zip(names, noise, strict=False)) | {"weights": torch.full((num_rows,), 0.1)}
    rows["advantages"] = rows["advantages"] + 3.6
    return hidden, weight, targets, rows


def token_loss_of(rows: dict[str, torch.Tensor], settings: LossSettings) -> TokenLoss:
    """The policy loss as a function of a chunk of rows."""

    def token_loss(logprobs: torch.Tensor, place: slice) -> tuple[torch.Tensor, torch.Tensor]:
        live = logprobs.detach().requires_grad_()
        own = {name: values[place] for name, values in rows.items()}
        boundaries = torch.tensor([0, len(live)], dtype=torch.int32)
        with torch.enable_grad():
            loss = policy_loss(
                live,
                own["advantages"],
                own["weights"],
                boundaries,
                settings,
                old_logprobs_R=own["old"],
                rollout_logprobs_R=own["rollout"],
                reference_logprobs_R=own["reference"],
            ).loss
            (slopes,) = torch.autograd.grad(loss, live)
        return loss.detach(), slopes

    return token_loss


def compare_token_loss_shards() -> None:
    """Gradients in forward, sharded against unsharded."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=HANG_LIMIT_S))
    rank, size = dist.get_rank(), dist.get_world_size()
    hidden, weight, targets, rows = token_loss_batch(9)
    loss_of = token_loss_of(rows, LossSettings(ratio="token", kl_coef=0.1))
    whole = [x.clone().requires_grad_() for x in (hidden, weight)]
    expected, _stats = linear_token_loss(whole[0], whole[1], targets, loss_of, vocab_size=37)
    expected.backward()
    shard = [hidden.clone().requires_grad_(), weight.chunk(size)[rank].clone().requires_grad_()]
    found, _stats = linear_token_loss(
        shard[0], shard[1], targets, loss_of, vocab_size=37, group=dist.group.WORLD, chunk_bytes=240
    )
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = [x.grad if x.grad is not None else torch.empty(0) for x in (*shard, *whole)]
    dist.all_reduce(gradients[0])
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[3].chunk(size)[rank], rtol=1e-5, atol=1e-6)
    dist.destroy_process_group()


def compare_shards_of_distant_logits(level: float) -> None:
    """Exponentials where all logits are near a level; targets are the first and the last of a shard, or none."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=HANG_LIMIT_S))
    rank, size = dist.get_rank(), dist.get_world_size()
    hidden, weight, _targets, _rows = token_loss_batch(9)
    hidden[:, 0], weight[:, 0] = 1.0, level
    targets = torch.tensor([0, 19, 20, 36, 20, 19, -100, 5, 30])
    again, is_needed = exponentials.exponentials_again, []

    def noting(*arguments: Any) -> None:
        is_needed.append(bool(arguments[5]))
        again(*arguments)

    vars(exponentials)["exponentials_again"] = noting
    vars(in_forward)["affordable_bytes"] = None  # may differ between ranks, which must take the same rows
    whole = [hidden.double().requires_grad_(), weight[:37].double().requires_grad_()]
    logprobs = torch.log_softmax(whole[0] @ whole[1].T, -1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    logprobs.where(targets >= 0, 0.0).sum().backward()
    shard = [hidden.clone().requires_grad_(), weight.chunk(size)[rank].clone().requires_grad_()]
    loss, _stats = linear_token_loss(
        shard[0],
        shard[1],
        targets,
        lambda lp, _rows: (lp.sum(), torch.ones_like(lp)),
        vocab_size=37,
        group=dist.group.WORLD,
    )
    loss.backward()
    assert not any(is_needed), "a second launch"
    gradients = [x.grad if x.grad is not None else torch.empty(0) for x in (*shard, *whole)]
    dist.all_reduce(gradients[0])
    expected = torch.cat([gradients[3], gradients[3].new_zeros(3, 16)]).chunk(size)[rank]
    # logits of 300 are rounded to 3e-5, and the sum over a column of equal weights cancels
    torch.testing.assert_close(gradients[0][:, 1:], gradients[2][:, 1:].float(), rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(gradients[1], expected.float(), rtol=2e-4, atol=2e-4)
    dist.destroy_process_group()


def random_masks(num_rows: int, num_columns: int, seed: int = 3) -> SamplingMasks:
    """Of each row from one to all columns, some rows without a mask among them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, num_columns + 1, (num_rows,), generator=generator)
    sizes[::4] = 1
    sizes[2::4] = 0
    tokens = [torch.randperm(num_columns, generator=generator)[:size] for size in sizes.tolist()]
    boundaries = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    drawn = (torch.rand(num_rows, generator=generator) * sizes).long()
    return SamplingMasks(
        torch.arange(num_rows).repeat_interleave(sizes),
        torch.cat(tokens),
        boundaries,
        torch.where(sizes > 0, boundaries[:-1] + drawn, 0),
    )


def take(masks: SamplingMasks, rows: list[int]) -> SamplingMasks:
    """The masks of some rows."""
    sizes = masks.boundaries_T1.diff()[rows]
    boundaries = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    places = [torch.arange(int(masks.boundaries_T1[row]), int(masks.boundaries_T1[row + 1])) for row in rows]
    drawn = masks.targets_T[rows] - masks.boundaries_T1[rows]
    return SamplingMasks(
        torch.arange(len(rows)).repeat_interleave(sizes),
        masks.tokens_K[torch.cat(places)],
        boundaries,
        torch.where(sizes > 0, boundaries[:-1] + drawn, 0),
    )


def compare_masked_shards() -> None:
    """Log-probs among sampling masks, sharded against whole: 11 real columns, the last shards padded or empty."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=HANG_LIMIT_S))
    rank, size = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    hidden, factor = torch.randn(9, 16, generator=generator), torch.randn(9, generator=generator)
    weight, masks = torch.full((24, 16), 7.0), random_masks(9, 11)
    weight[:11] = torch.randn(11, 16, generator=generator)
    whole = [x.clone().requires_grad_() for x in (hidden, weight[:11])]
    expected = masked_logprob(whole[0], whole[1], masks, temperature=0.7)
    (expected * factor).sum().backward()
    shard = [hidden.clone().requires_grad_(), weight.chunk(size)[rank].clone().requires_grad_()]
    found = masked_logprob(shard[0], shard[1], masks, temperature=0.7, vocab_size=11, group=dist.group.WORLD)
    (found * factor).sum().backward()
    torch.testing.assert_close(found, expected)
    gradients = [x.grad if x.grad is not None else torch.empty(0) for x in (*shard, *whole)]
    dist.all_reduce(gradients[0])
    torch.testing.assert_close(gradients[0], gradients[2])
    padded = torch.zeros(24, 16)
    padded[:11] = gradients[3]
    torch.testing.assert_close(gradients[1], padded.chunk(size)[rank])
    dist.destroy_process_group()
