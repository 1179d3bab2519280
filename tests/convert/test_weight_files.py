"""Which files of a folder are its weights: those that every reader takes, or none."""

import json
import shutil
from pathlib import Path

import pytest

from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.convert.hf_model import load_hf_model
from egrc_mega.convert.weight_files import INDEX, WEIGHTS, weight_files
from egrc_mega.errors import ModelError
from egrc_mega.testing.tiny_model import write_tiny_qwen2


def sharded(folder: Path, size: str = "8KB", seed: int = 0) -> Path:
    return write_tiny_qwen2(folder, shard_size=size, seed=seed)


def test_a_single_file_beside_an_index_is_refused_by_every_reader(tmp_path: Path) -> None:
    """transformers would load the one, SGLang and this converter the others: two models in one folder."""
    folder = write_tiny_qwen2(tmp_path / "both")
    for path in sharded(tmp_path / "other", seed=5).glob("model*"):
        shutil.copy(path, folder)
    for reader in (weight_files, HfReader, load_hf_model):
        with pytest.raises(ModelError, match=r"the index names model-00001-.*and there is model\.safetensors"):
            reader(folder)


def test_shards_of_an_earlier_save_are_refused_by_name(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    stale = folder / "model-00001-of-00002.safetensors"
    stale.write_bytes(b"old")
    with pytest.raises(ModelError, match=r"and there is model-00001-of-00002\.safetensors"):
        weight_files(folder)
    stale.rename(folder / "consolidated.safetensors")  # Mistral's own copy: nobody takes it beside an index
    assert weight_files(folder).weight_map is not None


def test_files_beside_a_single_one_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    shutil.copy(folder / WEIGHTS, folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors and model\.safetensors without"):
        weight_files(folder)


def test_shards_without_their_index_are_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "model")
    (folder / INDEX).unlink()
    with pytest.raises(ModelError, match="download the index"):
        weight_files(folder)


def test_an_index_of_the_single_file_alone_is_no_contradiction(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    names = HfReader(folder).names()
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS)}))
    assert weight_files(folder).names == (WEIGHTS,)
    assert HfReader(folder).names() == names


def test_a_half_downloaded_snapshot_says_which_link_leads_nowhere(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    (snapshot.parent.parent / "blobs").mkdir()
    write_tiny_qwen2(snapshot)
    blob = snapshot.parent.parent / "blobs/123"
    (snapshot / WEIGHTS).rename(blob)
    (snapshot / WEIGHTS).symlink_to("../../blobs/123")
    assert HfReader(snapshot).names()
    blob.rename(blob.with_suffix(".incomplete"))
    with pytest.raises(ModelError, match=r"model\.safetensors: .* a link to \.\./\.\./blobs/123, which cannot be read"):
        HfReader(snapshot)


def test_a_file_that_is_still_being_filled_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    (folder / f"{WEIGHTS}.aria2").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"model\.safetensors\.aria2: aria2 has not finished"):
        weight_files(folder)


@pytest.mark.parametrize(
    ("sizes", "refused"), [(("1GB", "20KB"), True), (("20KB", "1GB"), True), (("8KB", "20KB"), False)]
)
def test_a_folder_that_transformers_has_saved_into_twice_is_refused_where_readers_would_differ(
    sizes: tuple[str, str], refused: bool, tmp_path: Path
) -> None:
    """transformers leaves a single file beside shards, and an index beside a single file; old shards it removes."""
    for seed, size in enumerate(sizes):
        sharded(tmp_path / "model", size, seed)
    if refused:
        with pytest.raises(ModelError, match=r"readers differ in what they take"):
            HfReader(tmp_path / "model")
        return
    once, twice = sharded(tmp_path / "once", sizes[1], 1), HfReader(tmp_path / "model")
    fresh = HfReader(once)
    assert fresh.infos == twice.infos
    assert all(fresh.tensor(name).equal(twice.tensor(name)) for name in fresh.names())


@pytest.mark.parametrize(
    "content", ['{"weight_map": {"a": 1}}', '{"weight_map": null}', '{"weight_map": {}}', "{}", "3"]
)
def test_an_index_of_other_types_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(content)
    with pytest.raises(ModelError, match="no index of safetensors") as error:
        HfReader(folder)
    assert "\n" not in str(error.value)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    folder = write_tiny_qwen2(tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="makes an adapter of it"):
        weight_files(folder)
