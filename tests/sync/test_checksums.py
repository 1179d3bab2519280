"""What servers' parameters must hash to, whatever their layout, and what is left out."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.sync.checksums import Checksums, checksum
from egrc_mega.sync.gpu_hash import TILE_WORDS, TILES_AT_ONCE, gpu_hash
from egrc_mega.testing.tiny_model import write_tiny_model

OF_SGLANG = {
    (1, torch.bfloat16): "3d93a6540b54ef2a",
    (3, torch.bfloat16): "ccf3be5c2d232626",
    (100, torch.float32): "0cb7a3379432d9be",
    (8192, torch.float32): "f8ce7229dd65a1d2",
    (8193, torch.float32): "4f9db6d84218d78f",
    (50001, torch.bfloat16): "3e40989849d18e87",
}
"""What SGLang's kernel gives, in Triton's interpreter (tests/sglang/test_gpu_hash.py)."""


def watched(folder: Path, **arguments: object) -> Checksums:
    fields = {"dtype": torch.float32, "num_ranks": [1], "device": "cpu"} | arguments
    checksums = Checksums(read_architecture(folder), **fields)  # type: ignore[arg-type]
    for _ in checksums.watch(iter(load_file(folder / "model.safetensors").items())):
        pass
    return checksums


@pytest.mark.parametrize(("count", "dtype"), OF_SGLANG)
def test_the_hash_of_a_gpu_tensor_is_sglangs(count: int, dtype: torch.dtype) -> None:
    assert gpu_hash((torch.arange(count) / 7).to(dtype)) == OF_SGLANG[count, dtype]


def test_the_hash_of_a_large_tensor_sees_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.arange(3 * TILE_WORDS + 5, dtype=torch.float32)
    whole = gpu_hash(tensor)
    assert TILES_AT_ONCE > 4
    monkeypatch.setattr("egrc_mega.sync.gpu_hash.TILES_AT_ONCE", 1)
    assert gpu_hash(tensor) == whole  # however much is looked at at once
    for place in (0, TILE_WORDS, len(tensor) - 1):
        changed = tensor.clone()
        changed[place] += 1
        assert gpu_hash(changed) != whole
    assert gpu_hash(torch.cat([tensor[1:], tensor[:1]])) != whole
    assert gpu_hash(tensor[:0]) == "0" * 16


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_hashed_is_what_the_server_keeps_of_what_was_sent(device: str, tmp_path: Path) -> None:
    """Weights that travel in bf16 are float32 again on a CPU, and as they came on a GPU."""
    model = write_tiny_model("Qwen2", tmp_path / "model")
    state = load_file(model / "model.safetensors")
    checksums = Checksums(read_architecture(model), torch.bfloat16, [1], device)  # type: ignore[arg-type]
    passed = dict(checksums.watch(iter(state.items())))
    for name, tensor in state.items():
        assert passed[name] is tensor
        sent = tensor.bfloat16()
        assert checksums.whole[name] == (checksum(sent.float()) if device == "cpu" else gpu_hash(sent)), name


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_servers_of_different_layouts_are_compared_each_with_its_own(device: str, tmp_path: Path) -> None:
    checksums = watched(write_tiny_model("Qwen2", tmp_path / "model"), num_ranks=[1, 2], device=device)
    one, two = checksums.by_rank[1], checksums.by_rank[2]
    assert checksums.difference(one) is None and checksums.difference(two) is None
    name = "model.layers.0.self_attn.qkv_proj.weight"
    assert len({one[0][name], two[0][name], two[1][name]}) == 3
    swapped = [two[0], two[1] | {name: two[0][name]}]
    assert str(checksums.difference(swapped)).startswith(f"{name} on rank 1 is {two[0][name]}, the trainer's is ")


def test_experts_are_left_out_and_nothing_else_is(tmp_path: Path) -> None:
    checksums = watched(write_tiny_model("Qwen3Moe", tmp_path / "model"))
    served = checksums.by_rank[1][0] | {"model.layers.0.mlp.experts.w13_weight": "0123456789abcdef"}
    assert checksums.difference([served]) is None
    assert "model.layers.0.mlp.gate.weight" in served
    extra = served | {"model.layers.0.mlp.shared.weight": "0123456789abcdef"}
    assert str(checksums.difference([extra])).startswith("model.layers.0.mlp.shared.weight on rank 0")
