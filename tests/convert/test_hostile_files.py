"""Folders that somebody else has made: whatever is in them ends in a declared error, and none of it is run."""

import io
import json
import os
import pickle
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from egrc_mega.checkpoint import store
from egrc_mega.cli.main import main
from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf
from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.pickles import require_harmless
from egrc_mega.convert.source import open_source
from egrc_mega.convert.torch_dist import TorchDistReader
from egrc_mega.errors import CheckpointError, EgrcError, ModelError
from egrc_mega.manifest import MANIFEST, damages, is_complete
from egrc_mega.testing.tiny_model import FAMILIES, write_tiny_model, write_tiny_qwen2

NORM = "decoder.final_layernorm.weight"


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in both formats, `hf` and `megatron`; to be copied."""
    base = tmp_path_factory.mktemp("made")
    hf_to_megatron(write_tiny_qwen2(base / "hf"), base / "megatron")
    return base


@pytest.fixture
def hf(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "hf", tmp_path / "hf")


@pytest.fixture
def iteration(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "megatron", tmp_path / "megatron")
    return tmp_path / "megatron/iter_0000001"


def edit_metadata(iteration: Path, change: Callable[[Any], object]) -> None:
    (iteration / MANIFEST).unlink(missing_ok=True)
    metadata = pickle.loads((iteration / ".metadata").read_bytes())
    change(metadata)
    (iteration / ".metadata").write_bytes(pickle.dumps(metadata))


def info_of(metadata: Any, key: str) -> Any:
    return next(info for index, info in metadata.storage_data.items() if index.fqn.startswith(key))


def put_archive(iteration: Path, key: str, archive: bytes) -> None:
    """Let a key's chunk be another archive, in a file of its own."""

    def change(metadata: Any) -> None:
        info = info_of(metadata, key)
        info.relative_path, info.offset, info.length = "other.distcp", 0, len(archive)

    edit_metadata(iteration, change)
    (iteration / "other.distcp").write_bytes(archive + bytes(500))


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def deflated(archive: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return buffer.getvalue()


def test_an_archive_that_is_compressed_is_read_as_torch_reads_it(iteration: Path) -> None:
    put_archive(iteration, NORM, deflated(saved(torch.arange(32.0))))
    found = TorchDistReader(iteration).read(NORM, (0,), (32,))
    assert torch.equal(found, torch.arange(32.0))


def test_a_tensor_described_larger_than_its_values_is_refused(iteration: Path) -> None:
    small = saved(torch.arange(32.0))
    large = saved(torch.arange(8.0))
    with zipfile.ZipFile(io.BytesIO(small)) as told, zipfile.ZipFile(io.BytesIO(large)) as held:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as new:
            for entry in told.infolist():
                other = held if entry.filename.endswith("data/0") else told
                new.writestr(entry.filename, other.read(entry.filename))
    put_archive(iteration, NORM, buffer.getvalue())
    with pytest.raises(CheckpointError, match=rf"other\.distcp: {NORM} cannot be read"):
        TorchDistReader(iteration).read(NORM, (0,), (32,))


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: setattr(info_of(metadata, NORM), "offset", -64),
        lambda metadata: setattr(info_of(metadata, NORM), "length", "many"),
        lambda metadata: setattr(info_of(metadata, NORM), "length", 0),
        lambda metadata: setattr(info_of(metadata, NORM), "relative_path", "../../hf/config.json"),
        lambda metadata: setattr(info_of(metadata, NORM), "relative_path", None),
        lambda metadata: metadata.storage_data.update({3: 4}),
        lambda metadata: setattr(metadata.state_dict_metadata[NORM], "size", (2**70,)),
        lambda metadata: setattr(metadata.state_dict_metadata[NORM], "size", ("a",)),
        lambda metadata: setattr(metadata.state_dict_metadata[NORM], "chunks", 7),
    ],
)
def test_places_of_other_types_end_in_a_declared_error(change: Callable, iteration: Path, tmp_path: Path) -> None:
    edit_metadata(iteration, change)
    with pytest.raises(EgrcError) as error:
        megatron_to_hf(iteration, tmp_path / "back")
    assert len(str(error.value).splitlines()[0]) > 40
    assert not (tmp_path / "back").exists()


def test_before_a_step_is_loaded_its_metadata_is_looked_through(iteration: Path, tmp_path: Path) -> None:
    require_harmless(iteration)
    edit_metadata(iteration, lambda metadata: setattr(metadata, "planner_data", Evil(tmp_path / "was-here")))
    for load in (require_harmless, lambda path: store.load(path, None), lambda path: store.load_model(path, None)):
        with pytest.raises(CheckpointError, match=r"\.metadata: not to be loaded: it names posix\.system"):
            load(iteration)
    assert not (tmp_path / "was-here").exists()


def test_before_a_step_is_loaded_the_objects_beside_its_tensors_are_looked_through(
    iteration: Path, tmp_path: Path
) -> None:
    key = "decoder.layers.mlp.linear_fc1._extra_state"
    put_archive(iteration, key, saved(io.BytesIO(b"Transformer Engine's")))
    require_harmless(iteration)
    put_archive(iteration, key, saved(Evil(tmp_path / "was-here")))
    with pytest.raises(CheckpointError, match=rf"other\.distcp: {key}.* is not to be loaded"):
        store.load(iteration, None)  # type: ignore[arg-type]
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("content", ["{}", "[]", '{"../../etc/passwd": {}}', '{"a": 1}', "[" * 100_000, "7"])
def test_a_manifest_that_names_nothing_here_vouches_for_nothing(content: str, hf: Path, iteration: Path) -> None:
    for folder in (hf, iteration):
        (folder / MANIFEST).write_text(content)
        assert damages(folder) != []
        assert not is_complete(folder)
    with pytest.raises(CheckpointError, match=MANIFEST):
        hf_to_megatron(hf, hf.parent / "out")


def test_weights_that_the_manifest_does_not_name_are_a_damage(iteration: Path, hf: Path) -> None:
    names = json.loads((iteration / MANIFEST).read_text())
    (iteration / MANIFEST).write_text(json.dumps({k: v for k, v in names.items() if k != ".metadata"}))
    assert damages(iteration) == [f".metadata is not in {MANIFEST}"]
    entry = {"config.json": names["huggingface/config.json"]}
    (hf / MANIFEST).write_text(json.dumps(entry))
    assert damages(hf) == [f"model.safetensors is not in {MANIFEST}"]


@pytest.mark.parametrize("text", ["9" * 5000, "\xff\xfe", "-1", "1.5", "٣", "", "iter_1"])
def test_a_tracker_of_something_else_is_refused(text: str, iteration: Path) -> None:
    (iteration.parent / "latest_checkpointed_iteration.txt").write_bytes(text.encode("latin-1", "ignore"))
    with pytest.raises(EgrcError):
        open_source(iteration.parent)


def test_old_buffers_of_rope_are_left_behind_as_transformers_leaves_them(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = write_tiny_model("Llama", tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4, dtype=torch.float16) for i in (0, 1)}
    save_file(tensors | buffers, folder / "model.safetensors", metadata={"format": "pt"})
    hf_to_megatron(folder, tmp_path / "megatron")
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back")
    assert load_file(tmp_path / "back/model.safetensors").keys() == tensors.keys()


VALUES: tuple[Any, ...] = (None, True, -1, 0, 2**70, 1.5, float("nan"), "", "silu", [], [1], [["a"]], {}, {"a": {}})


def test_fields_of_other_types_end_in_declared_errors_only(made: Path, tmp_path: Path) -> None:
    """Every field of every family's config.json, with every type of JSON: read, or refused by an `EgrcError`."""
    outcomes = {True: 0, False: 0}
    for family in FAMILIES:
        folder = write_tiny_model(family, tmp_path / family)
        fields = json.loads((folder / "config.json").read_text()) | {"rope_scaling": None, "torch_dtype": None}
        for name in fields:
            for value in VALUES:
                try:
                    list(architecture_of(HfConfig(fields | {name: value})).hf_shapes())
                    outcomes[True] += 1
                except EgrcError:
                    outcomes[False] += 1
    assert min(outcomes.values()) > 100


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "2", "silu", "float32", "default"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "factor", "a"]), inner),
    max_leaves=5,
)


def drawn(request: pytest.FixtureRequest, check: Callable, *strategies: Any, quick: int = 60, full: int = 6000) -> None:
    """Call a check with many draws; far more with --full."""
    count = full if request.config.getoption("--full") else quick
    settings(max_examples=count, deadline=None, derandomize=True, database=None)(given(*strategies)(check))()


def test_folders_of_drawn_fields_end_in_declared_errors_only(
    made: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Several fields of a config.json at once, through a whole conversion."""
    folder = shutil.copytree(made / "hf", tmp_path / "hf")
    fields = json.loads((folder / "config.json").read_text())
    names = sorted({*fields, "rope_scaling", "rope_theta", "head_dim", "torch_dtype", "layer_types", "unheard_of"})
    outcomes: list[type | None] = []

    def check(changes: dict[str, Any], gone: str) -> None:
        drawn_fields = fields | changes
        drawn_fields.pop(gone, None)
        (folder / "config.json").write_text(json.dumps(drawn_fields))
        try:
            hf_to_megatron(folder, tmp_path / "out")
            shutil.rmtree(tmp_path / "out")
            outcomes.append(None)
        except EgrcError as error:
            outcomes.append(type(error))
        assert not list(tmp_path.glob("*out*"))

    drawn(request, check, st.dictionaries(st.sampled_from(names), JSON, max_size=3), st.sampled_from([*names, ""]))
    assert {None, ModelError} <= set(outcomes)


@pytest.mark.parametrize("name", ["index", "manifest", "tokenizer_config.json", "generation_config.json"])
def test_small_files_of_drawn_json_end_in_declared_errors_only(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = write_tiny_qwen2(tmp_path / "hf", shard_size="20KB" if name == "index" else "1GB")
    file = folder / {"index": "model.safetensors.index.json", "manifest": MANIFEST}.get(name, name)
    content = json.loads(file.read_text()) if file.exists() else {"config.json": {"size_bytes": 1, "sha256": ""}}

    def check(value: Any, change: Any, whole: bool) -> None:
        drawn_content = value if whole else content | change
        if name == "index" and not whole:
            drawn_content = content | {"weight_map": content["weight_map"] | change}
        file.write_text(json.dumps(drawn_content))
        try:
            hf_to_megatron(folder, tmp_path / "out")
            shutil.rmtree(tmp_path / "out")
        except EgrcError:
            pass
        assert not list(tmp_path.glob("*out*"))

    keys = st.sampled_from(["model.norm.weight", "config.json", "model.safetensors", "auto_map", "../x", "a"])
    drawn(request, check, JSON, st.dictionaries(keys, JSON, max_size=2), st.booleans(), quick=30, full=1500)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "__0_0.distcp", "common.pt", "metadata.json"])
def test_flipped_bytes_end_in_declared_errors_only(
    file: str, made: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Without a manifest to tell them; a flipped value is a value."""
    kind, function = ("hf", hf_to_megatron) if (made / "hf" / file).exists() else ("megatron", megatron_to_hf)
    folder = shutil.copytree(made / kind, tmp_path / kind)
    (path,) = folder.rglob(file)
    for manifest in folder.rglob(MANIFEST):
        manifest.unlink()
    sound = path.read_bytes()

    def check(places: list[int], value: int) -> None:
        content = bytearray(sound)
        for place in places:
            content[place] ^= value
        path.write_bytes(content)
        try:
            function(folder, tmp_path / "out")
            shutil.rmtree(tmp_path / "out")
        except EgrcError:
            pass
        assert not list(tmp_path.glob("*out*"))

    # half of them in the header
    place = st.integers(0, len(sound) - 1) | st.integers(0, min(2000, len(sound) - 1))
    drawn(request, check, st.lists(place, min_size=1, max_size=4), st.integers(1, 255), quick=30, full=2000)


def put_folder(path: Path) -> None:
    path.mkdir()


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_loop(path: Path) -> None:
    path.symlink_to(path.name)


def put_dangling(path: Path) -> None:
    path.symlink_to("../../blobs/not-there")


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(3000))


def put_nothing(path: Path) -> None:
    path.write_bytes(b"")


KINDS = (put_folder, put_pipe, put_loop, put_dangling, put_device, put_garbage, put_nothing)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_files_of_other_kinds_end_in_declared_errors_and_leave_no_trace(
    kind: Callable, made: Path, tmp_path: Path
) -> None:
    """Each file of either format in turn is something else; what is not needed may be passed over."""
    for name, function in (("hf", hf_to_megatron), ("megatron", megatron_to_hf)):
        for file in [path.relative_to(made / name) for path in sorted((made / name).rglob("*")) if path.is_file()]:
            folder, out = tmp_path / f"{name}-{file.name}", tmp_path / "out"
            shutil.copytree(made / name, folder)
            (folder / file).unlink()
            kind(folder / file)
            try:
                function(folder, out)
            except EgrcError:
                assert not out.exists()
            else:
                assert file.name in ("generation_config.json", MANIFEST), file
                shutil.rmtree(out)
            assert not list(tmp_path.glob(".out*"))


def test_what_the_operating_system_refuses_is_one_line_with_its_own_exit_code(
    hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    for target, expected in ((tmp_path / "file/x", 11), (tmp_path / ("x" * 300), 11), (tmp_path / "dangling", 4)):
        monkeypatch.setattr(sys, "argv", ["egrc", "convert", "hf-to-megatron", str(hf), str(target)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == expected
        text = capsys.readouterr().err
        assert [line.startswith("egrc: error: ") for line in text.strip().splitlines()] == [True], text
