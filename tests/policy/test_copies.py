"""A micro-batch is copied on a stream of its own, and nobody reads it too early or overwrites it too soon.

Doubles stand for a GPU's streams; tests/gpu has the real ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from egrc_mega.policy import copies, packed, packing
from egrc_mega.policy.balance import Load
from egrc_mega.policy.context import TokenSplit
from egrc_mega.policy.copies import CopyStream, tensors_of
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.packing import Baselines, MicroBatch, build_micro_batch, flat_offsets
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.testing.policy_worker import ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2


class Stream:
    """What a stream was asked to do, in the order of all streams."""

    def __init__(self, events: list[tuple], name: str) -> None:
        self.events, self.name = events, name

    def wait_stream(self, other: "Stream") -> None:
        self.events.append((self.name, "waits for", other.name))


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Copies, waits and records of a GPU that is not here; the tensors are the host's."""
    found: list[tuple] = []
    streams = [Stream(found, "work")]

    @contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        streams.append(stream)
        yield
        streams.pop()

    def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        found.append((streams[-1].name, "copies", id(tensor)))
        return tensor

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: Stream(found, "copies"))
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: streams[-1])
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _tensor: True))
    record = lambda tensor, stream: found.append((stream.name, "holds", id(tensor)))  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "record_stream", record)
    for module in (packed, packing):
        monkeypatch.setattr(module, "on_device", on_device)
    return found


@pytest.mark.parametrize("split", [TokenSplit(), TokenSplit(context_size=2, context_rank=1)])
def test_what_is_copied_aside_is_waited_for_and_held_tensor_by_tensor(events: list[tuple], split: TokenSplit) -> None:
    samples = ragged_samples()
    flat = torch.zeros(int(flat_offsets(samples)[-1]))
    baselines = Baselines(old=flat, reference=flat)
    cuda = torch.device("cuda")
    stream = CopyStream(cuda)
    batch = stream.made(lambda: build_micro_batch(samples, Load((0, 1)), baselines, cuda, split))
    assert isinstance(batch, MicroBatch)
    whats = [(stream, what) for stream, what, _other in events]
    count = whats.count(("copies", "copies"))
    assert count >= 11 and whats[:count] == [("copies", "copies")] * count
    # the wait comes after the last copy, and whoever waits holds every tensor that was copied
    assert events[count] == ("work", "waits for", "copies")
    copied = {number for _stream, _what, number in events[:count]}
    held = {number for stream, what, number in events[count + 1 :] if (stream, what) == ("work", "holds")}
    assert copied <= held and len(events) > count + 1


def test_the_policys_micro_batches_come_by_way_of_the_copies(
    tmp_path: Path, world_of_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    original = copies.CopyStream.made
    monkeypatch.setattr(copies.CopyStream, "made", lambda self, make: made.append(x := original(self, make)) or x)
    folder = write_tiny_qwen2(tmp_path / "model", vocab_size=41)
    policy = Policy(folder, MegatronSection(), PolicySection(max_tokens_per_micro_batch=100))
    samples = ragged_samples()
    policy.score(samples, 1.0)
    assert len(made) == len(policy._plan(samples)) > 1 and all(isinstance(x, MicroBatch) for x in made)


def test_on_a_cpu_nothing_is_asked_of_streams() -> None:
    value = [torch.zeros(1), ("text", torch.ones(2))]
    assert CopyStream(torch.device("cpu")).made(lambda: value) is value
    assert list(tensors_of(value)) == []
