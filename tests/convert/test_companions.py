"""What travels beside the weights: all that licence and tokenizer need, and nothing that is not the folder's own."""

import json
import os
from pathlib import Path

import pytest

from egrc_mega.convert.companions import copy_companions, left_out
from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf
from egrc_mega.errors import ModelError
from egrc_mega.testing.tiny_model import write_tiny_qwen2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_qwen2(tmp_path / "model")


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "vocab.json", "LICENSE", "use_policy.md"])
def test_a_link_out_of_the_folder_is_refused_and_nothing_of_it_is_copied(
    name: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("TOPSECRET")
    (model / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=f"{name}: a link out of the folder"):
        hf_to_megatron(model, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "secret"}


def test_links_inside_the_folder_and_into_the_caches_blobs_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    write_tiny_qwen2(snapshot)
    blobs = tmp_path / "models--a--b/blobs"
    blobs.mkdir()
    (blobs / "1").write_text("of the cache")
    (snapshot / "README.md").symlink_to("../../blobs/1")
    (snapshot / "LICENSE").symlink_to("README.md")
    (tmp_path / "target").mkdir()
    copy_companions(snapshot, tmp_path / "target")
    for name in ("README.md", "LICENSE"):
        assert (tmp_path / "target" / name).read_text() == "of the cache"
        assert not (tmp_path / "target" / name).is_symlink()


def test_blobs_that_are_themselves_a_link_are_not_the_caches(tmp_path: Path) -> None:
    (tmp_path / "ssh").mkdir()
    (tmp_path / "ssh/id_rsa").write_text("TOPSECRET")
    snapshot = tmp_path / "x/snapshots/y"
    snapshot.parent.mkdir(parents=True)
    write_tiny_qwen2(snapshot)
    (tmp_path / "x/blobs").symlink_to(tmp_path / "ssh")
    (snapshot / "README.md").symlink_to("../../blobs/id_rsa")
    with pytest.raises(ModelError, match="a link out of the folder"):
        left_out(snapshot)


def test_a_link_to_nothing_and_a_pipe_are_refused_and_folders_are_passed_over(model: Path) -> None:
    for name in ("LICENSES", "x.json", "README"):
        (model / name).mkdir()
    (model / "LICENSES/MIT.txt").write_text("MIT")
    target = model.parent / "target"
    target.mkdir()
    copy_companions(model, target)
    assert (target / "LICENSES/MIT.txt").read_text() == "MIT"
    assert not (target / "x.json").exists()
    (model / "tokenizer.json").symlink_to("../../blobs/not-downloaded")
    with pytest.raises(ModelError, match=r"tokenizer\.json: a link to \.\./\.\./blobs/not-downloaded"):
        copy_companions(model, target)
    (model / "tokenizer.json").unlink()
    os.mkfifo(model / "notes.txt")
    with pytest.raises(ModelError, match=r"notes\.txt: no regular file"):
        copy_companions(model, target)


def test_terms_and_tokenizers_of_every_name_travel_whatever_their_case_and_code_does_not(
    model: Path, tmp_path: Path
) -> None:
    travels = {"USE_POLICY.md", "license", "COPYING", "Licence.rst", "tokenizer.model.v3", "tokenizer.tiktoken"}
    travels |= {"vocab.bpe", "NOTICE", "ReadMe.MD", "Chat_Template.JINJA"}
    stays = {"license.py", "notice.sh", "training_args.bin", "tokenizer.model.py", "copying.pkl"}
    for name in travels | stays:
        (model / name).write_text("x")
    (tmp_path / "target").mkdir()
    copy_companions(model, tmp_path / "target")
    assert {path.name for path in (tmp_path / "target").iterdir()} == travels | {
        "config.json",
        "generation_config.json",
    }


def test_a_field_that_points_to_code_is_left_out_and_that_is_said(model: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((model / name).read_text()) if (model / name).exists() else {"a": 1}
        (model / name).write_text(json.dumps(content | {"auto_map": {"AutoModel": "evil.Evil"}}))
    said: list[str] = []
    hf_to_megatron(model, tmp_path / "megatron", note=said.append)
    assert [line.split(":")[0] for line in said] == ["config.json", "tokenizer_config.json"]
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back", note=said.append)
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((tmp_path / "back" / name).read_text())
    assert len(said) == 2


def test_a_dtype_is_stated_where_none_was(model: Path, tmp_path: Path) -> None:
    import torch

    fields = json.loads((model / "config.json").read_text())
    del fields["dtype"]
    (model / "config.json").write_text(json.dumps(fields))
    hf_to_megatron(model, tmp_path / "megatron", dtype=torch.bfloat16)
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["dtype"] == "bfloat16"
