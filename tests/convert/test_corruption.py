"""The corruption matrix: every damage is refused with the file and the tensor named, and nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf
from egrc_mega.convert.parallel import ParallelLayout
from egrc_mega.convert.source import open_source
from egrc_mega.convert.verify import compare
from egrc_mega.convert.weight_files import INDEX
from egrc_mega.errors import CheckpointError, EgrcError, ModelError
from egrc_mega.testing.tiny_model import write_tiny_qwen2

NORM = "model.norm.weight"
SECOND = "model-00002-of-00003.safetensors"
ANY = r"model-0000\d-of-00003\.safetensors"


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def edit_json(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def file_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


def flip(file: Path, offset: int = -5) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def drop_everywhere(folder: Path, name: str) -> None:
    edit_tensors(file_of(folder, name), lambda tensors: tensors.pop(name))
    edit_json(folder / INDEX, lambda index: index["weight_map"].pop(name))


def add_unknown(folder: Path) -> None:
    edit_tensors(file_of(folder, NORM), lambda tensors: tensors.update({"model.extra.weight": torch.zeros(1)}))
    file = file_of(folder, NORM).name
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"model.extra.weight": file}))


def replace(folder: Path, name: str, tensor: torch.Tensor) -> None:
    edit_tensors(file_of(folder, name), lambda tensors: tensors.update({name: tensor}))


def duplicate(folder: Path) -> None:
    edit_tensors(folder / SECOND, lambda tensors: tensors.update({NORM: torch.ones(32)}))


def truncate(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])


def untie(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=False))


def tie(folder: Path) -> None:
    edit_json(folder / "config.json", lambda config: config.update(tie_word_embeddings=True))


HF_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing tensor": (lambda folder: drop_everywhere(folder, NORM), rf"{NORM} is missing"),
    "missing tensor, index says otherwise": (
        lambda folder: edit_tensors(file_of(folder, NORM), lambda tensors: tensors.pop(NORM)),
        rf"index\.json puts {NORM} into {ANY}, it is in none of the files",
    ),
    "extra tensor": (add_unknown, r"safetensors: model\.extra\.weight is in no rule"),
    "tensor that the index lacks": (
        lambda folder: edit_json(folder / INDEX, lambda index: index["weight_map"].pop(NORM)),
        rf"safetensors: {NORM} is not in model\.safetensors\.index\.json",
    ),
    "wrong shape": (
        lambda folder: replace(folder, NORM, torch.ones(31)),
        rf"safetensors: {NORM} has shape \[31\], config\.json says \[32\]",
    ),
    "wrong dtype": (
        lambda folder: replace(folder, NORM, torch.ones(32, dtype=torch.float16)),
        rf"safetensors: {NORM} has dtype F16, config\.json says float32",
    ),
    "unknown dtype": (
        lambda folder: replace(folder, NORM, torch.ones(32, dtype=torch.int8)),
        rf"safetensors: {NORM} has dtype I8, known are",
    ),
    "duplicate in two shards": (duplicate, rf"{NORM} is in {ANY} and in {ANY}"),
    "truncated shard": (lambda folder: truncate(folder / SECOND, -9), rf"{SECOND}: not a whole safetensors file"),
    "empty shard": (lambda folder: truncate(folder / SECOND, 0), rf"{SECOND}: not a whole safetensors file"),
    "missing shard": (lambda folder: (folder / SECOND).unlink(), rf"{SECOND}: not a whole safetensors file"),
    "index pointing outside": (
        lambda folder: edit_json(folder / INDEX, lambda index: index["weight_map"].update({NORM: "../x.safetensors"})),
        r"index\.json: \.\./x\.safetensors points outside the folder",
    ),
    "index with an absolute path": (
        lambda folder: edit_json(folder / INDEX, lambda index: index["weight_map"].update({NORM: "/etc/passwd"})),
        r"index\.json: /etc/passwd points outside the folder",
    ),
    "torn index": (lambda folder: truncate(folder / INDEX, 20), r"index\.json: no index of safetensors"),
    "index that is no map": (lambda folder: (folder / INDEX).write_text("[]"), r"index\.json: no index of safetensors"),
    "tied mismatch": (tie, r"safetensors: lm_head\.weight differs from model\.embed_tokens\.weight"),
    "untied without a head": (
        lambda folder: drop_everywhere(folder, "lm_head.weight"),
        r"lm_head\.weight is missing; config\.json says tie_word_embeddings is false",
    ),
    "config that lies about heads": (
        lambda folder: edit_json(folder / "config.json", lambda config: config.update(num_attention_heads=8)),
        r"safetensors: model\.layers\.0\.self_attn\.k_proj\.weight has shape \[16, 32\], config\.json says \[8, 32\]",
    ),
    "config that lies about groups": (
        lambda folder: edit_json(folder / "config.json", lambda config: config.update(num_key_value_heads=4)),
        r"k_proj\.weight has shape \[16, 32\], config\.json says \[32, 32\]",
    ),
    "config that lies about layers": (
        lambda folder: edit_json(
            folder / "config.json", lambda config: config.update(num_hidden_layers=1, layer_types=None)
        ),
        r"model\.layers\.1\.mlp\.up_proj\.weight is in no rule",
    ),
}


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    folder = write_tiny_qwen2(tmp_path / "hf", tie_word_embeddings=False, shard_size="32KB")
    assert (folder / SECOND).exists()
    return folder


@pytest.mark.parametrize("damage", HF_DAMAGES)
def test_a_damaged_hugging_face_folder_is_refused(damage: str, hf: Path, tmp_path: Path) -> None:
    change, message = HF_DAMAGES[damage]
    change(hf)
    with pytest.raises(ModelError, match=message):
        hf_to_megatron(hf, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_all_damages_are_told_at_once(hf: Path, tmp_path: Path) -> None:
    replace(hf, NORM, torch.ones(31))
    add_unknown(hf)
    drop_everywhere(hf, "model.layers.0.mlp.up_proj.weight")
    with pytest.raises(ModelError) as error:
        hf_to_megatron(hf, tmp_path / "out", parallel=ParallelLayout(3, 5, 2))
    text = str(error.value)
    for part in (
        "model.layers.0.mlp.up_proj.weight is missing",
        "model.extra.weight is in no rule",
        f"{NORM} has shape",
        "tensor_model_parallel_size: 3 does not divide the 4 attention heads",
        "pipeline_model_parallel_size: 5 stages, but only 2 layers",
        "expert_model_parallel_size: 2 does not divide",
    ):
        assert part in text


def test_a_very_wrong_config_does_not_flood_the_screen(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "hf", num_hidden_layers=20)
    edit_json(folder / "config.json", lambda config: config.update(hidden_size=64))
    with pytest.raises(ModelError, match=r"and \d+ more problems") as error:
        hf_to_megatron(folder, tmp_path / "out")
    assert str(error.value).count("\n") == 100


@pytest.fixture
def exported(hf: Path, tmp_path: Path) -> Path:
    """A Hugging Face folder with a manifest, and its Megatron checkpoint."""
    hf_to_megatron(hf, tmp_path / "megatron", max_shard_bytes=20_000)
    megatron_to_hf(tmp_path / "megatron", tmp_path / "exported", max_shard_bytes=20_000)
    return tmp_path / "exported"


def test_a_flipped_byte_in_a_folder_is_found_by_file_and_tensor(exported: Path, tmp_path: Path) -> None:
    file = file_of(exported, NORM)
    weight_map = json.loads((exported / INDEX).read_text())["weight_map"]
    last = [name for name, place in weight_map.items() if place == file.name][-1]
    flip(file)
    before = set(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=rf"{file.name} differs from the manifest in {last}; restore it"):
        hf_to_megatron(exported, tmp_path / "out")
    with pytest.raises(CheckpointError, match=rf"{file.name} differs from the manifest in {last}"):
        compare(open_source(exported), open_source(tmp_path / "megatron"))
    assert set(tmp_path.iterdir()) == before


def test_a_flipped_byte_of_any_tensor_names_that_tensor(exported: Path) -> None:
    weight_map = json.loads((exported / INDEX).read_text())["weight_map"]
    for name, file in weight_map.items():
        marks = json.loads((exported / "manifest.sha256.json").read_text())[file]["marks"]
        whole = (exported / file).read_bytes()
        flip(exported / file, marks[name][0] - 1)
        with pytest.raises(CheckpointError, match=f"{file} differs from the manifest in {name};"):
            compare(open_source(exported), open_source(exported))
        (exported / file).write_bytes(whole)


def shards(megatron: Path) -> list[Path]:
    return sorted((megatron / "iter_0000001").glob("*.distcp"))


MEGATRON_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (
        lambda folder: flip(shards(folder)[0], 1000),
        r"__0_0\.distcp differs from the manifest in embedding\.word_embeddings\.weight \[0, 0\]",
    ),
    "truncated shard": (lambda folder: truncate(shards(folder)[1], -1), r"__0_1\.distcp has \d+ bytes, the manifest"),
    "missing shard": (lambda folder: shards(folder)[1].unlink(), r"__0_1\.distcp is missing"),
    "torn metadata": (
        lambda folder: truncate(folder / "iter_0000001/.metadata", 100),
        r"\.metadata: torn or of an unknown version",
    ),
    "no metadata": (lambda folder: (folder / "iter_0000001/.metadata").unlink(), "there is no such iteration"),
    "no manifest of ours": (
        lambda folder: (folder / "iter_0000001/manifest.sha256.json").write_text('{"common.pt": 3}'),
        r"manifest\.sha256\.json cannot be read",
    ),
    "torn manifest": (
        lambda folder: truncate(folder / "iter_0000001/manifest.sha256.json", 50),
        r"manifest\.sha256\.json cannot be read",
    ),
}


@pytest.mark.parametrize("damage", MEGATRON_DAMAGES)
def test_a_damaged_megatron_checkpoint_is_refused(damage: str, exported: Path, tmp_path: Path) -> None:
    change, message = MEGATRON_DAMAGES[damage]
    change(tmp_path / "megatron")
    before = set(tmp_path.iterdir())
    with pytest.raises(EgrcError, match=message):
        megatron_to_hf(tmp_path / "megatron", tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def lie(folder: Path, **fields: object) -> None:
    edit_json(folder / "iter_0000001/huggingface/config.json", lambda config: config.update(fields))


WITHOUT_MANIFEST: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated shard": (lambda folder: truncate(shards(folder)[1], 500), r"__0_1\.distcp: .* cannot be read"),
    "garbage in a shard": (
        lambda folder: shards(folder)[1].write_bytes(bytes(50_000)),
        r"__0_1\.distcp: .* cannot be read",
    ),
    "config that lies about heads": (
        lambda folder: lie(folder, num_attention_heads=8),
        r"linear_qkv\.weight has shape \[2, 64, 32\], config\.json says \[2, 48, 32\]",
    ),
    "missing tensor": (
        lambda folder: lie(folder, num_hidden_layers=3, layer_types=None),
        r"linear_qkv\.weight has shape \[2, 64, 32\], config\.json says \[3, 64, 32\]",
    ),
    "extra tensor": (lambda folder: lie(folder, tie_word_embeddings=True), r"output_layer\.weight is in no rule"),
}


@pytest.mark.parametrize("damage", WITHOUT_MANIFEST)
def test_a_foreign_megatron_checkpoint_is_checked_too(damage: str, exported: Path, tmp_path: Path) -> None:
    """Other tools write no manifest."""
    change, message = WITHOUT_MANIFEST[damage]
    (tmp_path / "megatron/iter_0000001/manifest.sha256.json").unlink()
    change(tmp_path / "megatron")
    before = set(tmp_path.iterdir())
    with pytest.raises(EgrcError, match=message):
        megatron_to_hf(tmp_path / "megatron", tmp_path / "out")
    assert set(tmp_path.iterdir()) == before
