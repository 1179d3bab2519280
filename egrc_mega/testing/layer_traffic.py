"""What megatron's model with our parts launches and moves on a GPU that is not here, layer by layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.presets import PRESETS
from egrc_mega.policy import distributed  # noqa: F401  (first: it bends megatron to the CPU)

# isort: split
from egrc_mega.policy import attention, cpu_backend, layer_spec, model
from egrc_mega.policy.packed import PackedSequences, pack
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.testing.traffic import Traffic, counted

# isort: split
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker

PRESET = "deepseek-r1-distill-qwen-1.5b"


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Of the model, and of the sequences that it gets."""

    layers: int = 1
    lengths: tuple[int, ...] = (4096, 3072, 2560, 2048, 1536, 1280, 1024, 512, 256)
    hidden: int = 1536
    ffn: int = 8960
    heads: int = 12
    groups: int = 2
    head_dim: int = 128

    @property
    def tokens(self) -> int:
        """How many are packed, in all sequences."""
        return sum(self.lengths)

    def floor(self, way: str) -> float:
        """Bytes of a layer whose every product and op reads its inputs once and writes its results once, in bf16.

        Backward reads and writes float32 sums of weight gradients, for micro-batches share them.
        """
        kv = 2 * self.groups * self.head_dim
        query = self.heads * self.head_dim
        hidden, ffn = self.hidden, self.ffn
        products = [(hidden, query + kv), (query, hidden), (hidden, 2 * ffn), (ffn, hidden)]
        weights = sum(a * b for a, b in products)
        ends = sum(a + b for a, b in products) * self.tokens
        turned, attended = self.tokens * (query + kv // 2), self.tokens * (2 * query + kv)
        states, gated = self.tokens * self.hidden, self.tokens * self.ffn
        if way == "forward":
            # norms read and write, residuals read two and write one
            return 2.0 * (weights + ends + 2 * 2 * states + 2 * 3 * states + 2 * turned + attended + 3 * gated)
        ops = 2 * 3 * states + 2 * 3 * states + 2 * turned + 2 * attended + 5 * gated
        return 2.0 * (weights + 2 * ends + ops) + 8.0 * weights


def model_traffic(sizes: LayerSizes) -> dict[str, Traffic]:
    """Forward and backward of the model up to its hidden states."""
    with (
        patch.object(layer_spec, "replaces_megatrons", lambda: True),
        patch.object(model, "replaces_megatrons", lambda: True),
        patch.object(layer_spec, "fuses_weight_gradients", lambda: True),
        patch.object(model, "fuses_weight_gradients", lambda: True),
        # what megatron makes on the current device has no memory either
        patch.object(cpu_backend, "CPU", torch.device("meta")),
        patch.object(attention, "_takes_flash", lambda _query: True),
        _world_of_one(),
    ):
        built = _model(sizes)
        packed = _packed(sizes.lengths)
        ids = torch.empty(1, sizes.tokens, dtype=torch.int64, device="meta")
        with counted() as forward:
            hidden_TH = built(ids, ids, None, packed_seq_params=packed)
        upstream = torch.empty_like(hidden_TH)
        with counted() as backward:
            hidden_TH.backward(upstream)
    return {"forward": forward, "backward": backward}


@contextmanager
def _world_of_one() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    initialize_rng_tracker(inference_rng_tracker=True)
    parallel_state.initialize_model_parallel(create_gloo_process_groups=False)
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _model(sizes: LayerSizes) -> torch.nn.Module:
    """Weights without memory; each has the float32 sum that DDP would give it."""
    architecture = architecture_of(HfConfig(PRESETS[PRESET] | {"num_hidden_layers": sizes.layers}))
    with torch.device("meta"):
        (built,) = model.build_model(architecture, model.transformer_config(architecture, MegatronSection(bf16=True)))
    for parameter in built.parameters():
        parameter.main_grad = torch.empty_like(parameter, dtype=torch.float32)
        parameter.grad_added_to_main_grad = False
    # megatron makes its angles where there is memory
    built.rotary_pos_emb.inv_freq = built.rotary_pos_emb.inv_freq.to("meta")
    return built


def _packed(lengths: tuple[int, ...]) -> PackedSequences:
    """As the trainer packs them, with the device's share there."""
    packed = pack([0, *accumulate(lengths)], torch.device("cpu"))
    cu_seqlens = packed.cu_seqlens_q.to("meta")
    assert packed.parts is not None
    packed.cu_seqlens_q = packed.cu_seqlens_kv = cu_seqlens
    packed.parts = replace(packed.parts, cu_queries=cu_seqlens, cu_keys=cu_seqlens)
    return packed
