"""Nothing between the start of a schedule and its end makes the host wait for the device.

On a CPU nobody waits, so the operations that would wait on a GPU are counted: reads of a number, copies to the host,
and shapes that depend on values. Our kernels' references stand for the kernels, and a double for the flash attention.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from egrc_mega.policy import attention, engine, layer_spec, model
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.packed import on_device
from egrc_mega.policy.packing import Baselines
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.policy_worker import masked_samples, ragged_samples
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import TrainSample

pytestmark = pytest.mark.usefixtures("world_of_one")

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.", "is_nonzero")
READS = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__")
LOSS = LossSection(ratio="token", kl_coef=0.1, tis_cap=1.5, old_logprobs="rollout", entropy_coef=0.1)


class Waits(TorchDispatchMode):
    """Operations for which a GPU's host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        takes_mask = name.startswith("index") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8)
            for indices in args
            if isinstance(indices, list | tuple)
            for x in indices
        )
        lengths_known = name.startswith("repeat_interleave") and (kwargs or {}).get("output_size") is not None
        if name.startswith(WAITS) or takes_mask or (name.startswith("repeat_interleave") and not lengths_known):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Waits inside, those included that torch does not dispatch on a CPU."""
    with monkeypatch.context() as patch, Waits() as waits:
        for name in READS:
            original = getattr(torch.Tensor, name)

            def read(self: torch.Tensor, *args: Any, _name: str = name, _original: Any = original, **kw: Any) -> Any:
                waits.found.append(f"Tensor.{_name}")
                return _original(self, *args, **kw)

            patch.setattr(torch.Tensor, name, read)
        yield waits


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """Four layers, all recomputed, of the parts that a GPU has."""
    for module in (model, layer_spec):
        monkeypatch.setattr(module, "replaces_megatrons", lambda: True)
    section = MegatronSection(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
    folder = write_tiny_qwen2(tmp_path / "model", num_hidden_layers=4, vocab_size=41)
    return Policy(folder, section, PolicySection(max_tokens_per_micro_batch=100))


def schedules_of(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, make: Callable[[], list[TrainSample]] = ragged_samples
) -> list[str]:
    """Waits in the schedules of a score and an update."""
    found: list[str] = []
    original = engine.get_forward_backward_func()

    def run(**arguments: Any) -> Any:
        with counted(monkeypatch) as waits:
            result = original(**arguments)
        found.extend(waits.found)
        return result

    monkeypatch.setattr(engine, "get_forward_backward_func", lambda: run)
    samples = make()
    old = policy.score(samples, 0.7).logprobs
    policy.update(samples, 0.7, LOSS, 1e-3, Baselines(old=old, reference=old - 0.1))
    return found


@pytest.mark.parametrize("in_forward", [False, True])
@pytest.mark.parametrize("has_flash", [False, True])
def test_no_layer_and_no_micro_batch_waits(
    policy: Policy, has_flash: bool, in_forward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    boundaries: list[torch.Tensor] = []

    def flash(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
        boundaries.extend((cu_q, cu_k))
        assert isinstance(max_q, int) and isinstance(max_k, int)
        return query * key.mean() * value.mean()

    monkeypatch.setattr(attention, "varlen_attn", flash)
    monkeypatch.setattr(attention, "_takes_flash", lambda _query: has_flash)
    monkeypatch.setattr(engine, "takes_gradient_in_forward", lambda *_: in_forward)
    assert schedules_of(policy, monkeypatch) == []
    if has_flash:
        # one a micro-batch, in every layer, forward and recomputed; the micro-batches are scored, then trained on
        assert len({id(tensor) for tensor in boundaries}) == 2 * len(policy._plan(ragged_samples()))
        assert len(boundaries) == 2 * 4 * (1 + 2) * len(policy._plan(ragged_samples()))


def test_what_tokens_were_drawn_from_makes_nobody_wait(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert schedules_of(policy, monkeypatch, masked_samples) == []


def test_a_micro_batch_is_built_when_the_one_before_has_been_launched(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the device computes one, the host builds the next; so no more than one stands by."""
    events: list[str] = []
    build = engine.build_micro_batch

    def built(*arguments: Any, **options: Any) -> Any:
        events.append("built")
        return build(*arguments, **options)

    monkeypatch.setattr(engine, "build_micro_batch", built)
    for piece in policy.model:
        piece.register_forward_hook(lambda *_: events.append("launched"))
    samples = ragged_samples()
    policy.update(samples, 0.7, LossSection(), 1e-3)
    count = len(policy._plan(samples))
    assert count > 1 and events == ["built", "launched"] * count


def test_what_goes_to_a_gpu_goes_from_pinned_memory_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        calls.append((device.type, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", to)
    on_device(np.arange(3), torch.device("cuda"))
    assert calls == ["pinned", ("cuda", True)]


def test_a_wait_would_be_seen(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    original = attention.attention_by_sequence

    def waiting(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        assert float(query.sum()) == query.sum().item() and query[query > 0].tolist() is not None
        return original(query, *rest)

    monkeypatch.setattr(attention, "attention_by_sequence", waiting)
    found = set(schedules_of(policy, monkeypatch))
    assert {"Tensor.item", "Tensor.tolist", "_local_scalar_dense.default", "Tensor.__float__"} <= found
    assert any(name.startswith(("index", "nonzero")) for name in found)
