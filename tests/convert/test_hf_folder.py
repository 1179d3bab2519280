"""Reading and writing Hugging Face folders: whole or refused, with the file named."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from egrc_mega.convert.families.registry import read_architecture
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


def test_pickled_weights_are_no_weights(tmp_path: Path, base_model: Path) -> None:
    shutil.copy(base_model / "config.json", tmp_path)
    torch.save({"model.norm.weight": torch.zeros(4)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds no safetensors"):
        HfReader(tmp_path)


def tensors_of(folder: Path) -> list[tuple[str, torch.Tensor]]:
    reader = HfReader(folder)
    return [(name, reader.tensor(name)) for name, _shape in read_architecture(folder).hf_shapes()]


def write(folder: Path, tensors: Iterable, source: Path, **options: object) -> None:
    arguments = {"architecture": read_architecture(source), "source": source, "dtype": torch.float32}
    write_folder(folder, tensors, **(arguments | options))


def test_writing_replaces_a_folder_as_a_whole_and_takes_the_companions_along(tmp_path: Path, base_model: Path) -> None:
    target = tmp_path / "out"
    source = write_tiny_qwen2(tmp_path / "other")
    (source / "LICENSE").write_text("old")
    write(target, tensors_of(source), source)
    shutil.rmtree(source)
    write(target, tensors_of(base_model), base_model)
    assert {path.name for path in target.iterdir()} == {path.name for path in base_model.iterdir()}
    assert list(tmp_path.iterdir()) == [target]


def test_what_belongs_to_a_model_travels_and_code_does_not(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "model")
    travels = {
        "LICENSE.txt",
        "merges.txt",
        "tokenizer.model",
        "chat_template.jinja",
        "README.md",
        "generation_config.json",
    }
    stays = {"modeling_evil.py", "pytorch_model.bin", "optimizer.pt"}
    for name in travels | stays:
        (source / name).write_text("{}")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/tools.jinja").write_text("{{ tools }}")
    write(tmp_path / "out", tensors_of(source), source)
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert (tmp_path / "out/additional_chat_templates/tools.jinja").read_text() == "{{ tools }}"
    found.remove("additional_chat_templates")
    assert found == travels | {"config.json", "model.safetensors", "manifest.sha256.json"}
    assert (tmp_path / "out/config.json").read_bytes() == (source / "config.json").read_bytes()


def test_another_dtype_is_written_into_config_json(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "model")
    write(tmp_path / "out", tensors_of(source), source, dtype=torch.bfloat16)
    assert read_architecture(tmp_path / "out").dtype == "bfloat16"
    written = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(written[name], tensor.bfloat16()) for name, tensor in tensors_of(source))


@pytest.mark.parametrize("limit", [1, 5000, 20000])
def test_files_stay_below_the_chosen_size_and_read_like_one(tmp_path: Path, limit: int) -> None:
    source = write_tiny_qwen2(tmp_path / "model", tie_word_embeddings=False)
    write(tmp_path / "out", tensors_of(source), source, max_shard_bytes=limit)
    largest = max(tensor.nbytes for _name, tensor in tensors_of(source))
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    for file in files:
        assert sum(tensor.nbytes for tensor in load_file(file).values()) <= max(limit, largest)
    reader = HfReader(tmp_path / "out")
    assert all(torch.equal(reader.tensor(name), tensor) for name, tensor in tensors_of(source))
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for _name, tensor in tensors_of(source))


def test_transformers_loads_what_was_written(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "model")
    write(tmp_path / "out", tensors_of(source), source, max_shard_bytes=5000)
    a, b = (AutoModelForCausalLM.from_pretrained(folder) for folder in (source, tmp_path / "out"))
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(a(ids).logits, b(ids).logits)


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, base_model: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield tensors_of(base_model)[0]
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write(tmp_path / "out", broken(), base_model)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_is_a_view_of_the_mapped_file(tmp_path: Path) -> None:
    reader = HfReader(write_tiny_qwen2(tmp_path / "model"))
    first, second = (reader.tensor("model.norm.weight") for _ in range(2))
    assert first.data_ptr() == second.data_ptr()
