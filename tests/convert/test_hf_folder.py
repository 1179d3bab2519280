"""Reading and writing Hugging Face folders: whole or refused, with the file named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egrc_mega.convert.family import read_architecture
from egrc_mega.convert.hf_folder import HfReader, write_folder
from egrc_mega.errors import ModelError
from egrc_mega.testing.tiny_model import write_tiny_qwen2


def shard_in_two(folder: Path) -> dict[str, str]:
    """Turn a folder's single file into two shards with an index; returns the index's map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_a_sharded_folder_reads_like_a_single_file(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    whole = load_file(folder / "model.safetensors")
    shard_in_two(folder)
    reader = HfReader(folder)
    assert reader.names() == whole.keys()
    assert all(torch.equal(reader.tensor(name), whole[name]) for name in whole)


def test_an_index_that_points_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    weight_map = shard_in_two(folder)
    weight_map["model.norm.weight"] = "../secret.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ModelError, match=r"\.\./secret\.safetensors points outside"):
        HfReader(folder)


@pytest.mark.parametrize("keep", [0, 5, 5000])
def test_a_torn_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: not a whole safetensors file"):
        HfReader(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no safetensors"):
        HfReader(tmp_path)


def test_writing_replaces_a_folder_as_a_whole_and_takes_the_companions_along(tmp_path: Path, base_model: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "stale.txt").write_text("old")
    tensors = load_file(base_model / "model.safetensors")
    write_folder(target, tensors.items(), source=base_model, dtype=None)
    assert not (target / "stale.txt").exists()
    assert {path.name for path in target.iterdir()} == {path.name for path in base_model.iterdir()}
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_while_writing_leaves_no_folder_that_looks_finished(tmp_path: Path, base_model: Path) -> None:
    def broken():
        yield "a", torch.zeros(1)
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_folder(tmp_path / "out", broken(), source=base_model, dtype=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "sliding"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope"),
    ],
)
def test_a_config_that_megatron_cannot_express_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        read_architecture(folder)


def test_rope_theta_is_found_in_old_and_new_configs(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5e5
    (folder / "config.json").write_text(json.dumps(config))
    assert read_architecture(folder).model_fields["rotary_base"] == 5e5
    del config["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 1e6}))
    assert read_architecture(folder).model_fields["rotary_base"] == 1e6
