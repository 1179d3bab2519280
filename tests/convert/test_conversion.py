"""Conversions on files alone: exact, streaming, whole or absent. What megatron makes of them: test_megatron."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egrc_mega.convert import conversion, layout
from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf, parse_dtype, parse_size, total_bytes
from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.convert.parallel import ParallelLayout
from egrc_mega.convert.source import HfSource, MegatronSource, open_source, same_bits
from egrc_mega.convert.torch_dist import TorchDistReader, TorchDistWriter
from egrc_mega.errors import CheckpointError, ConfigError, ModelError
from egrc_mega.manifest import damages
from egrc_mega.testing import tiny_model
from egrc_mega.testing.tiny_model import write_tiny_model, write_tiny_qwen2


def assert_same_tensors(a: Path, b: Path) -> None:
    first, second = HfReader(a), HfReader(b)
    assert first.names() == second.names()
    assert [name for name in first.names() if not same_bits(first.tensor(name), second.tensor(name))] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", tiny_model.FAMILIES)
def test_a_round_trip_is_bitwise_in_every_dtype_and_keeps_the_companions(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    source = write_tiny_model(family, tmp_path / "hf", dtype=dtype, vocab_size=509)
    (source / "LICENSE").write_text("yours")
    hf_to_megatron(source, tmp_path / "megatron", parallel=ParallelLayout(2))
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")
    for name in ("config.json", "generation_config.json", "LICENSE"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    assert damages(tmp_path / "back") == damages(tmp_path / "megatron/iter_0000001") == []


def test_the_checkpoint_has_the_shape_that_megatron_looks_for(tmp_path: Path) -> None:
    hf_to_megatron(write_tiny_qwen2(tmp_path / "hf"), tmp_path / "megatron")
    assert (tmp_path / "megatron/latest_checkpointed_iteration.txt").read_text() == "1"
    folder = tmp_path / "megatron/iter_0000001"
    assert json.loads((folder / "metadata.json").read_text())["sharded_backend"] == "torch_dist"
    assert torch.load(folder / "common.pt", weights_only=True)["iteration"] == 1
    assert {path.name for path in folder.iterdir()} >= {
        ".metadata",
        "__0_0.distcp",
        "manifest.sha256.json",
        "huggingface",
    }


@pytest.mark.parametrize(("tp", "rows"), [(1, 509), (2, 510), (3, 510), (4, 512)])
def test_padding_rows_are_zeros_on_import_and_cut_on_export(tmp_path: Path, tp: int, rows: int) -> None:
    source = write_tiny_qwen2(
        tmp_path / "hf", vocab_size=509, num_attention_heads=12, num_key_value_heads=12, hidden_size=48
    )
    hf_to_megatron(source, tmp_path / "megatron", parallel=ParallelLayout(tp))
    reader = TorchDistReader(tmp_path / "megatron/iter_0000001")
    stored = reader.tensors["embedding.word_embeddings.weight"]
    assert stored.shape == (rows, 48)
    whole = reader.read("embedding.word_embeddings.weight", (0, 0), stored.shape)
    assert whole[509:].abs().sum() == 0
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")


def test_another_dtype_is_converted_on_request_and_stated(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")
    hf_to_megatron(source, tmp_path / "megatron", dtype=torch.bfloat16)
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    megatron_to_hf(tmp_path / "megatron", tmp_path / "half", dtype=torch.float16)
    before = load_file(source / "model.safetensors")
    for folder, dtype in (("back", torch.bfloat16), ("half", torch.float16)):
        after = load_file(tmp_path / folder / "model.safetensors")
        assert all(torch.equal(after[name], before[name].bfloat16().to(dtype)) for name in before)
        assert open_source(tmp_path / folder).architecture.dtype == str(dtype).removeprefix("torch.")


def test_a_value_that_float16_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][3] = 1e6
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ModelError, match=r"--dtype float16: model\.norm\.weight holds 1e\+06, too large"):
        hf_to_megatron(source, tmp_path / "out", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_tied_folder_that_carries_its_head_is_accepted_and_the_head_is_dropped(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")
    tensors = load_file(source / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, source / "model.safetensors")
    hf_to_megatron(source, tmp_path / "megatron")
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    after = load_file(tmp_path / "back/model.safetensors")
    assert after.keys() == tensors.keys()


def test_small_shards_make_many_files_on_both_sides(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf", tie_word_embeddings=False)
    hf_to_megatron(source, tmp_path / "megatron", max_shard_bytes=20_000)
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back", max_shard_bytes=20_000)
    assert len(list((tmp_path / "megatron/iter_0000001").glob("*.distcp"))) > 2
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 2
    assert_same_tensors(source, tmp_path / "back")


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3Moe"])
@pytest.mark.parametrize("stacked", ["experts", "nothing"])
def test_checkpoints_whose_layers_have_keys_of_their_own_are_read(tmp_path: Path, family: str, stacked: str) -> None:
    source = HfSource(write_tiny_model(family, tmp_path / "hf"))
    (tmp_path / "iter_0000007").mkdir()
    writer = TorchDistWriter(tmp_path / "iter_0000007", max_shard_bytes=10**9, durable=False)
    for entry in source.architecture.entries():
        full = layout.to_megatron(entry, source.tensors(entry), source.architecture)
        depth = len(entry.index) if stacked == "nothing" else min(1, len(entry.index))
        key = entry.name if stacked == "nothing" else entry.layer_key
        index, stack = entry.index[depth:], entry.stack[depth:]
        offsets = (*index, *(0 for _ in entry.shape))
        writer.add(key, (*stack, *entry.shape), offsets, full.reshape(*(1 for _ in index), *full.shape))
    writer.finish({})
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7\n")
    megatron_to_hf(tmp_path, tmp_path / "back", model=source.path)
    assert_same_tensors(source.path, tmp_path / "back")


def test_progress_is_told_every_byte_and_nothing_else(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf", vocab_size=41)
    told: list[int] = []
    hf_to_megatron(source, tmp_path / "megatron", parallel=ParallelLayout(2), advance=told.append)
    expected = sum(tensor.nbytes for tensor in load_file(source / "model.safetensors").values())
    assert sum(told) == expected == total_bytes(open_source(source), None)
    told.clear()
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back", advance=told.append)
    assert sum(told) == expected


def test_tensors_are_read_from_the_mapped_file(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")
    hf_to_megatron(source, tmp_path / "megatron")
    megatron = open_source(tmp_path / "megatron")
    for entry in megatron.architecture.entries():
        first, second = megatron.tensors(entry), megatron.tensors(entry)
        is_view = [a.data_ptr() == b.data_ptr() for a, b in zip(first, second, strict=True)]
        assert all(is_view) is (entry.kind != "qkv"), entry.name


MEMORY_PROBE = """
import sys, threading, time
from pathlib import Path
from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

source, scratch = map(Path, sys.argv[1:])
peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)
before = anonymous()
threading.Thread(target=watch, daemon=True).start()
hf_to_megatron(source, scratch / "megatron", max_shard_bytes=64 * 2**20)
megatron_to_hf(scratch / "megatron", scratch / "back", max_shard_bytes=64 * 2**20)
print(peak - before)
"""


def test_memory_stays_at_a_few_tensors_whatever_the_model(tmp_path: Path) -> None:
    """The bound of the specification has half a GiB on top; this one is tighter, and far below the model's size."""
    source = write_tiny_qwen2(
        tmp_path / "hf", hidden_size=1024, intermediate_size=4096, num_hidden_layers=8, num_attention_heads=16
    )
    model = sum(file.stat().st_size for file in source.glob("*.safetensors")) // 1024
    largest = 4096 * 1024 * 4 // 1024
    result = subprocess.run(
        [sys.executable, "-P", "-c", MEMORY_PROBE, str(source), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    extra = int(result.stdout)
    assert extra <= 3 * largest + 64 * 1024, f"{extra} KiB beyond the start"
    assert 3 * largest + 64 * 1024 < model / 4


def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")

    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hf_to_megatron(source, tmp_path / "megatron")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("direction", ["hf_to_megatron", "megatron_to_hf"])
def test_a_killed_conversion_leaves_no_folder_of_the_targets_name(tmp_path: Path, direction: str) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")
    if direction == "megatron_to_hf":
        hf_to_megatron(source, tmp_path / "megatron")
        source = tmp_path / "megatron"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from egrc_mega.convert import conversion\n"
        "count = []\n"
        "def advance(_bytes):\n"
        "    count.append(1)\n"
        "    len(count) > 5 and os.kill(os.getpid(), 9)\n"
        f"conversion.{direction}(Path(sys.argv[1]), Path(sys.argv[2]), advance=advance)\n"
    )
    before = set(tmp_path.iterdir())
    result = subprocess.run([sys.executable, "-P", "-c", code, str(source), str(tmp_path / "out")])
    assert result.returncode == -signal.SIGKILL
    left = set(tmp_path.iterdir()) - before
    assert [path.name.startswith(".out.partial-") for path in left] == [True]
    # and it is no obstacle
    getattr(conversion, direction)(source, tmp_path / "out")


def test_an_existing_target_is_left_alone(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        hf_to_megatron(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_checkpoint_that_does_not_say_its_model_needs_one(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")
    hf_to_megatron(source, tmp_path / "megatron")
    for file in (tmp_path / "megatron/iter_0000001/huggingface").iterdir():
        file.unlink()
    (tmp_path / "megatron/iter_0000001/manifest.sha256.json").unlink()
    with pytest.raises(ModelError, match="--model"):
        megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back", model=source)
    assert_same_tensors(source, tmp_path / "back")


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("1234", 1234), ("1.5K", 1500)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "five", "-1", "0", "5XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard-size"):
        parse_size(text)


def test_an_unknown_dtype_is_refused() -> None:
    assert parse_dtype(None) is None
    assert parse_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(ConfigError, match="--dtype: 'int8' is unknown, give one of bfloat16, float16, float32"):
        parse_dtype("int8")


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch evil-was-here",)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hf_to_megatron(write_tiny_qwen2(tmp_path / "hf"), tmp_path / "megatron")
    file = tmp_path / "megatron/iter_0000001/.metadata"
    metadata = pickle.loads(file.read_bytes())
    metadata.planner_data = Evil()
    file.write_bytes(pickle.dumps(metadata))
    reader = TorchDistReader(file.parent)
    assert "embedding.word_embeddings.weight" in reader.tensors
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"\.metadata: torn or of an unknown version"):
        TorchDistReader(file.parent)
    assert not (tmp_path / "evil-was-here").exists()


def test_a_source_is_recognised_by_what_it_is(tmp_path: Path) -> None:
    source = write_tiny_qwen2(tmp_path / "hf")
    hf_to_megatron(source, tmp_path / "megatron")
    assert isinstance(open_source(source), HfSource)
    assert isinstance(open_source(tmp_path / "megatron"), MegatronSource)
    assert isinstance(open_source(tmp_path / "megatron/iter_0000001"), MegatronSource)
    with pytest.raises(ModelError, match="Megatron checkpoint already"):
        hf_to_megatron(tmp_path / "megatron", tmp_path / "x")
    with pytest.raises(CheckpointError, match="is no Megatron checkpoint"):
        megatron_to_hf(source, tmp_path / "x")
    with pytest.raises(ModelError, match="is no folder"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "megatron/latest_checkpointed_iteration.txt").write_text("12")
    with pytest.raises(CheckpointError, match="says '12', there is no such iteration"):
        open_source(tmp_path / "megatron")
