"""What the ranks of the kernel tests do."""

import datetime

import torch
import torch.distributed as dist
from egrc_kernels.linear_logprob import linear_logprob
from egrc_kernels.registry import is_interpreting


def compare_shards() -> None:
    """Sharded values and gradients against the unsharded ones: 11 real columns, the last shards padded or empty."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    rank, size = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 16, generator=generator)
    weight = torch.zeros(24, 16)
    weight[:11] = torch.randn(11, 16, generator=generator)
    # every column is some row's target, the largest of its shard among them
    targets = torch.cat([(hidden @ weight[:11].T).argmax(1)[:3], torch.randint(11, (6,), generator=generator)])
    factor = torch.randn(9, generator=generator)
    for temperature in (0.7, 1.0):
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
    """The same with Triton's interpreted kernels, and without gradient the fused forward."""
    assert is_interpreting()
    compare_shards()
