"""The name of weights: by content alone, the same in a folder and in a trainer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egrc_mega.errors import ModelError
from egrc_mega.evaluation.fingerprint import fingerprint, fingerprint_of_folder
from egrc_mega.testing.tiny_model import write_tiny_qwen2

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4.0)}


def test_the_order_of_the_tensors_does_not_matter_and_all_else_does() -> None:
    name = fingerprint(TENSORS.items())
    assert fingerprint(reversed(TENSORS.items())) == name
    changed = [
        TENSORS | {"b": TENSORS["b"].clone().index_fill_(0, torch.tensor([3]), 3.0000002)},
        TENSORS | {"a": TENSORS["a"].view(3, 2)},
        {"a": TENSORS["a"], "c": TENSORS["b"]},
        {"a": TENSORS["a"]},
        TENSORS | {"b": TENSORS["b"].to(torch.bfloat16)},
        {"a": TENSORS["a"], "b": TENSORS["b"].view(torch.int32)},
    ]
    assert len({name, *(fingerprint(tensors.items()) for tensors in changed)}) == len(changed) + 1


def test_weights_are_named_as_they_are_served() -> None:
    half = {name: tensor.to(torch.bfloat16) for name, tensor in TENSORS.items()}
    assert fingerprint(TENSORS.items(), torch.bfloat16) == fingerprint(half.items())


def test_shards_and_a_copy_elsewhere_have_the_same_name(tmp_path: Path) -> None:
    whole = write_tiny_qwen2(tmp_path / "whole")
    parts = write_tiny_qwen2(tmp_path / "parts", shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    assert fingerprint_of_folder(whole) == fingerprint_of_folder(parts)
    assert fingerprint_of_folder(whole) == fingerprint(load_file(whole / "model.safetensors").items())


def test_one_changed_weight_changes_the_name(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    before = fingerprint_of_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, folder / "model.safetensors")
    assert fingerprint_of_folder(folder) != before


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no safetensors"):
        fingerprint_of_folder(tmp_path)


@pytest.mark.usefixtures("world_of_one")
def test_a_trainer_has_the_name_of_the_folder_that_it_began_with(tmp_path: Path) -> None:
    from egrc_mega.policy.engine import Policy
    from egrc_mega.sections.policy import MegatronSection, PolicySection

    folder = write_tiny_qwen2(tmp_path / "model")
    policy = Policy(folder, MegatronSection(), PolicySection())
    assert fingerprint(policy.export_hf(), policy.dtype) == fingerprint_of_folder(folder)
