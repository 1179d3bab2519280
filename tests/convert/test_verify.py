"""Comparison of two checkpoints: formats do not matter, every bit does, the first difference is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egrc_mega.convert.conversion import hf_to_megatron
from egrc_mega.convert.parallel import ParallelLayout
from egrc_mega.convert.source import open_source
from egrc_mega.convert.verify import compare
from egrc_mega.testing.tiny_model import write_tiny_qwen2

NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    return write_tiny_qwen2(tmp_path / "hf", vocab_size=41)


def copy_with(hf: Path, target: Path, change: torch.Tensor) -> Path:
    target.mkdir()
    (target / "config.json").write_bytes((hf / "config.json").read_bytes())
    save_file(load_file(hf / "model.safetensors") | {NAME: change}, target / "model.safetensors")
    return target


def test_the_same_weights_in_two_formats_are_equal(hf: Path, tmp_path: Path) -> None:
    hf_to_megatron(hf, tmp_path / "megatron", parallel=ParallelLayout(2))
    told: list[int] = []
    found = compare(open_source(hf), open_source(tmp_path / "megatron"), told.append)
    assert (found.num_tensors, found.difference) == (26, None)
    assert sum(told) == sum(tensor.nbytes for tensor in load_file(hf / "model.safetensors").values())


def test_one_different_value_is_named_with_its_place(hf: Path, tmp_path: Path) -> None:
    tensor = load_file(hf / "model.safetensors")[NAME]
    tensor[3, 5] = 7.5
    tensor[9, 9] += 1
    found = compare(open_source(hf), open_source(copy_with(hf, tmp_path / "b", tensor)))
    assert found.difference is not None
    assert found.difference.startswith(f"{NAME}: ")
    assert "and 7.5 at [3, 5]; 2 of 1536 values differ" in found.difference


@pytest.mark.parametrize(("a", "b", "equal"), [(torch.nan, torch.nan, True), (0.0, -0.0, False)])
def test_bits_are_compared_not_values(hf: Path, tmp_path: Path, a: float, b: float, equal: bool) -> None:
    tensor = load_file(hf / "model.safetensors")[NAME]
    tensor[0, 0] = a
    first = copy_with(hf, tmp_path / "a", tensor.clone())
    tensor[0, 0] = b
    second = copy_with(hf, tmp_path / "b", tensor)
    assert (compare(open_source(first), open_source(second)).difference is None) is equal


def test_another_dtype_or_shape_is_a_difference(hf: Path, tmp_path: Path) -> None:
    half = copy_with(hf, tmp_path / "half", load_file(hf / "model.safetensors")[NAME].half())
    found = compare(open_source(hf), open_source(half))
    assert found.difference == f"{NAME}: dtype torch.float32 and torch.float16"
    larger = write_tiny_qwen2(tmp_path / "larger", vocab_size=42)
    found = compare(open_source(hf), open_source(larger))
    assert found.difference is not None
    assert "model.embed_tokens.weight: [41, 32] in" in found.difference
    untied = write_tiny_qwen2(tmp_path / "untied", vocab_size=41, tie_word_embeddings=False)
    found = compare(open_source(hf), open_source(untied))
    assert found.difference is not None
    assert "lm_head.weight: absent in" in found.difference
