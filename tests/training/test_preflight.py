"""What megatron would refuse later is refused before anything starts, and the export is what was measured."""

import json
import resource
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.config.load import load_config
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.convert.hf_folder import HfReader
from egrc_mega.errors import ConfigError, DataError, EgrcError, ModelError, StorageError
from egrc_mega.launch.dry_run import dry_run
from egrc_mega.testing.tiny_model import write_tiny_model
from egrc_mega.training import preflight as module
from egrc_mega.training.lead import Lead
from egrc_mega.training.preflight import preflight, preflight_start


def check(root: Path, model: Path, *overrides: str, ranks: int = 1) -> None:
    config = load_config([root / "configs/quickstart.yaml"], [f"model.path={model}", *overrides]).config
    preflight(config, ranks, ranks)


def start(root: Path, model: Path, *overrides: str, starts_servers: bool = True) -> None:
    config = load_config([root / "configs/quickstart.yaml"], [f"model.path={model}", *overrides]).config
    preflight_start(config, starts_servers=starts_servers)


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    return write_tiny_model("Qwen3Moe", tmp_path / "moe")


def test_experts_on_tensor_parallel_ranks_are_refused_where_megatron_would_refuse_to_train_them(
    root: Path, experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = "megatron.tensor_model_parallel_size=2"
    with pytest.raises(ConfigError, match=r"megatron\.sequence_parallel: false, but at tensor_model_parallel_size 2"):
        check(root, experts, two, ranks=2)
    with pytest.raises(ConfigError, match="which gloo cannot gather"):
        check(root, experts, two, "megatron.sequence_parallel=true", ranks=2)
    check(root, experts, "megatron.expert_model_parallel_size=2", ranks=2)
    command = [two, f"model.path={experts}"]
    with pytest.raises(ConfigError, match=r"megatron\.sequence_parallel: false"):
        dry_run([root / "configs/quickstart.yaml"], command, num_nodes=1, num_processes=2)
    check(root, experts, two, "megatron.sequence_parallel=true", "rollout.device=cuda", ranks=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "_megatrons_own_problem", lambda *_: ())
    check(root, experts, two, "megatron.sequence_parallel=true", ranks=2)


def test_weights_that_are_cut_are_refused_by_name_and_absent_ones_where_a_run_starts(
    root: Path, base_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(base_model, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors: not a whole safetensors file"):
        check(root, model)
    weights.unlink()
    check(root, model)  # a dry run may be made elsewhere
    with pytest.raises(ModelError, match="holds no safetensors; convert the weights first"):
        start(root, model)
    with pytest.raises(ModelError, match="is a preset, which `egrc plan` takes for a model"):
        check(root, tmp_path / "deepseek-r1-distill-qwen-7b")


def test_servers_without_an_environment_are_refused_by_the_node_that_starts_them(
    root: Path, base_model: Path, tmp_path: Path
) -> None:
    sglang = ("rollout.server=sglang", f"rollout.python={tmp_path / 'python'}")
    with pytest.raises(ConfigError, match=r"rollout\.python: no SGLang environment"):
        start(root, base_model, *sglang)
    start(root, base_model, *sglang, starts_servers=False)
    start(root, base_model)


def test_a_folder_in_a_data_files_place_is_called_so(root: Path, base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.train: .* is a folder; give a file of it"):
        check(root, base_model, f"data.train={tmp_path}")


def test_too_few_open_files_are_refused_before_anything_starts(
    root: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [(64, 4096), (64, 64), (64, resource.RLIM_INFINITY)]
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits[len(asked)])
    monkeypatch.setattr(resource, "setrlimit", lambda _which, wanted: asked.append(wanted))
    check(root, base_model)  # the system lets the program have more
    with pytest.raises(StorageError, match=r"open files: the system allows this process 64, a run needs 256"):
        check(root, base_model)
    check(root, base_model)
    assert asked == [(hard, hard) for _soft, hard in limits]


def test_what_megatrons_own_configuration_refuses_is_refused_in_one_line(
    root: Path, experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from egrc_mega.policy import model

    real = model.TransformerConfig

    def strict(**fields: Any) -> Any:
        return real(**fields | {"moe_router_topk": 3, "moe_router_group_topk": 2, "moe_router_num_groups": 3})

    monkeypatch.setattr(model, "TransformerConfig", strict)
    with pytest.raises(ConfigError, match=r"megatron\.\*: megatron-core refuses the layout: \w+") as error:
        check(root, experts)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_copied_or_read_is_refused_before_a_run_starts(root: Path, tmp_path: Path) -> None:
    folder = write_tiny_model("Qwen2", tmp_path / "model")
    (folder / "README.md").symlink_to("/etc/hostname")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(EgrcError, match="a link out of the folder"):
        check(root, folder)
    (folder / "README.md").unlink()
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors and model\.safetensors"):
        check(root, folder)


def exported(tmp_path: Path, stated: str, dtype: torch.dtype) -> tuple[Path, list[str]]:
    source = write_tiny_model("Qwen2", tmp_path / "model")
    fields = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(fields | {"dtype": stated}))
    architecture, reader = read_architecture(source), HfReader(source)
    tensors = ((name, reader.tensor(name).to(dtype)) for name, _shape in architecture.hf_shapes())
    lead, said = object.__new__(Lead), []
    lead.folder = SimpleNamespace(export=tmp_path / "export")  # type: ignore[assignment]
    bar = lambda *_: nullcontext(lambda _done: None)  # noqa: E731
    lead.printer = SimpleNamespace(note=said.append, bar=bar)  # type: ignore[assignment]
    lead.events = SimpleNamespace(write=lambda *_, **__: None)  # type: ignore[assignment]
    lead.export(tensors, SimpleNamespace(architecture=architecture, companions=source, dtype=dtype))  # type: ignore[arg-type]
    return tmp_path / "export", said


@pytest.mark.parametrize("stated", ["float16", "bfloat16"])
def test_the_exported_folder_is_what_was_measured_and_another_dtype_is_said(stated: str, tmp_path: Path) -> None:
    folder, said = exported(tmp_path, stated, torch.float32)
    before = load_file(tmp_path / "model/model.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in load_file(folder / "model.safetensors").items())
    assert read_architecture(folder).dtype == "float32"
    assert len(said) == 1
    assert f"is in float32, as it was measured; the model came in {stated}" in said[0]


def test_an_export_in_the_models_own_dtype_says_nothing(tmp_path: Path) -> None:
    assert exported(tmp_path, "float32", torch.float32)[1] == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "stages.explore.rollout.max_new_tokens=512",
            "stages.explore: a response of 512 tokens",
        ),
        ("evaluation.max_new_tokens=600", "evaluation.max_new_tokens: a response of 600 tokens"),
        (
            "evaluation.sets={more: {data: configs/quickstart.yaml, max_new_tokens: 900}}",
            "evaluation.sets.more.max_new_tokens: a response of 900 tokens",
        ),
    ],
)
def test_a_response_that_the_model_has_no_positions_for_is_refused_before_anything_starts(
    root: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch, override: str, expected: str
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(ConfigError) as error:
        check(root, base_model, override)
    [line] = str(error.value).splitlines()
    assert line.startswith(expected)
    assert "do not fit into the model's 512 positions (max_position_embeddings of config.json); lower " in line
    fits = override.replace("=512", "=511").replace("600", "511").replace("900", "511")
    check(root, base_model, fits)  # beside the shortest prompt
