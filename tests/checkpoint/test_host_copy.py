"""What an asynchronous save keeps of a state: copies in memory that the next one uses again."""

from pathlib import Path

import pytest
import torch

from egrc_mega.checkpoint import host_copy
from egrc_mega.checkpoint.host_copy import HostCopy
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.testing.checkpoint_worker import TensorState


def state() -> list[torch.Tensor]:
    whole = torch.randn(30, 40)
    return [whole, whole[3:7], whole.T, whole[:, 5], whole.bfloat16(), torch.tensor(7), torch.tensor([True]), whole[:0]]


def test_copies_are_what_the_tensors_were_and_own_no_more() -> None:
    room, tensors = HostCopy(), state()
    copies = room.copies(tensors)
    before = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.zero_()
    for copied, expected in zip(copies, before, strict=True):
        assert torch.equal(copied, expected) and copied.dtype == expected.dtype
        assert copied.stride() == expected.stride() or not expected.numel()
        assert copied.untyped_storage().nbytes() == copied.nbytes


def test_the_next_copy_takes_the_memory_of_the_last_and_more_where_it_must() -> None:
    room, tensors = HostCopy(), state()
    places = [copied.data_ptr() for copied in room.copies(tensors)]
    again = room.copies([tensor + 1 for tensor in tensors[:1]])
    assert again[0].data_ptr() == places[0] and torch.equal(again[0], tensors[0] + 1)
    larger = [*tensors, torch.randn(1000)]
    for copied, expected in zip(room.copies(larger), larger, strict=True):
        assert torch.equal(copied, expected)


@pytest.mark.usefixtures("world_of_one")
def test_an_asynchronous_save_has_the_bytes_of_a_synchronous_one_and_takes_memory_once(
    tmp_path: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, taken = host_copy._fresh_memory, []
    monkeypatch.setattr(host_copy, "_fresh_memory", lambda size: (taken.append(size), take(size))[1])
    kept = TensorState(base_model, 4, 32)
    whole = kept.tensors["weight.0"].repeat(2, 1)
    kept.tensors["weight.0"] = whole[3:35]  # as a parameter lies in its optimizer's buffer
    for asynchronous in (False, True):
        store = CheckpointStore(tmp_path / str(asynchronous), keep=1, asynchronous=asynchronous)
        for number in (1, 2):
            store.save(number, kept, {})
            store.settle()
    assert taken == [sum(tensor.nbytes for tensor in kept.tensors.values())]  # once, by the first in the background
    ways = [tmp_path / str(asynchronous) / "step_000002" for asynchronous in (False, True)]
    names = sorted(file.relative_to(ways[0]) for file in ways[0].rglob("*") if file.is_file())
    assert len(names) > 5
    for name in names:
        assert (ways[0] / name).read_bytes() == (ways[1] / name).read_bytes(), name
