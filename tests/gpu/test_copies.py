"""Copies of a micro-batch on a GPU run beside its work, and their memory is not taken back too soon."""

import numpy as np
import torch

from egrc_mega.policy.copies import CopyStream
from egrc_mega.policy.packed import on_device

CUDA = torch.device("cuda")


def test_a_copy_ends_while_work_that_was_launched_before_it_goes_on() -> None:
    copies = CopyStream(CUDA)
    copies.made(lambda: [on_device(np.arange(3), CUDA)])  # streams and pinned memory are there
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second
    work = torch.cuda.Event()
    work.record()
    tensors = copies.made(lambda: [on_device(np.arange(1000), CUDA)])
    assert copies.stream is not None
    copies.stream.synchronize()
    assert not work.query(), "the copy came after the work"
    assert torch.equal(tensors[0].cpu(), torch.arange(1000))


def test_memory_that_queued_work_reads_is_not_copied_to_again() -> None:
    copies, sums = CopyStream(CUDA), []
    for number in range(20):
        (tensor,) = copies.made(lambda n=number: [on_device(np.full(100_000, n), CUDA)])
        torch.cuda._sleep(10_000_000)
        sums.append(tensor.sum())
        del tensor
    assert [int(total) for total in sums] == [100_000 * number for number in range(20)]
