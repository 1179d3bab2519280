"""The CPU backend stays as small as megatron-core allows. That it is enough, every other policy test shows."""

import importlib
import inspect
import re

import pytest
import torch

from egrc_mega.policy import cpu_backend

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="never used where CUDA exists")

SAYS_CUDA = re.compile(r"""device\s*=\s*["']cuda["']|torch\.cuda\.(current_device|synchronize)""")


@pytest.mark.parametrize("name", cpu_backend.MODULES)
def test_every_patched_module_still_says_cuda(name: str) -> None:
    source = inspect.getsource(importlib.import_module(name))
    assert SAYS_CUDA.search(source), f"{name} no longer needs the CPU backend: remove it from MODULES"


def test_megatron_still_compares_type_names_and_moves_tied_embeddings() -> None:
    clip = inspect.getsource(importlib.import_module("megatron.core.optimizer.clip_grads"))
    assert "torch.cuda.FloatTensor" in clip
    language = inspect.getsource(importlib.import_module("megatron.core.models.common.language_module.language_module"))
    assert ".cuda()" in language


def test_megatron_still_copies_the_sizes_of_experts_on_a_stream() -> None:
    source = inspect.getsource(importlib.import_module("megatron.core.transformer.moe.token_dispatcher"))
    assert "cuda_dtoh_stream = torch.cuda.Stream()" in source
    assert source.count("self._maybe_dtoh_and_synchronize(") == 4


def test_torch_itself_is_left_alone() -> None:
    cpu_backend.install()
    assert torch.tensor is not cpu_backend._TorchOnCpu().tensor
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


def test_the_stand_in_turns_cuda_into_cpu_and_passes_the_rest_through() -> None:
    stand_in = cpu_backend._TorchOnCpu()
    assert stand_in.zeros(1, device="cuda").device.type == "cpu"
    assert stand_in.empty(1, device=stand_in.cuda.current_device()).device.type == "cpu"
    assert stand_in.float32 is torch.float32
    assert stand_in.nn is torch.nn
