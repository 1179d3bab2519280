"""`egrc convert verify` can say no: config.json, tensors, logits, each with exit code 8 and the reason."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from egrc_mega.cli.convert import app
from egrc_mega.cli.main import main
from egrc_mega.convert.conversion import hf_to_megatron, megatron_to_hf
from egrc_mega.convert.source import open_source
from egrc_mega.convert.verify import compare
from egrc_mega.errors import CheckpointError
from egrc_mega.manifest import MANIFEST
from egrc_mega.policy import model as policy_model
from egrc_mega.testing.tiny_model import FAMILIES, LLAMA3_ROPE, write_tiny_model
from egrc_mega.training.comparison import compare_logits

PLAIN = {"rope_type": "default"}


def change_config(folder: Path, **fields: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (
            "Qwen2",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            r"rope_theta is 10000\.0 \(rope_par",
        ),
        ("Qwen2", {"rms_norm_eps": 1e-5}, r"rms_norm_eps is 1e-06 \(rms_norm_eps\) and 1e-05"),
        ("Llama", {"rope_parameters": LLAMA3_ROPE | {"factor": 32.0}}, r"rope\.factor is 8\.0"),
        (
            "Llama",
            {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
            r"rope\.factor is 8\.0 .* absent",
        ),
        ("Qwen3Moe", {"num_experts_per_tok": 1}, "num_experts_per_tok is 2"),
        ("Qwen3Moe", {"norm_topk_prob": False}, "norm_topk_prob is True"),
    ],
)
def test_equal_tensors_under_unequal_statements_differ(family: str, fields: dict, message: str, tmp_path: Path) -> None:
    write_tiny_model(family, tmp_path / "a")
    change_config(write_tiny_model(family, tmp_path / "b"), **fields)
    found = compare(open_source(tmp_path / "a"), open_source(tmp_path / "b"))
    assert found.difference is not None
    assert re.search(message, found.difference), found.difference


def test_statements_that_mean_the_same_are_equal(tmp_path: Path) -> None:
    write_tiny_model("Qwen2", tmp_path / "a")
    change_config(write_tiny_model("Qwen2", tmp_path / "b"), rope_parameters=None, rope_theta=10000, eos_token_id=[2])
    assert compare(open_source(tmp_path / "a"), open_source(tmp_path / "b")).difference is None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_two_implementations_agree_within_what_rounding_explains(family: str, tmp_path: Path) -> None:
    source = write_tiny_model(family, tmp_path / "a", dtype=torch.bfloat16)
    hf_to_megatron(source, tmp_path / "b")
    found = compare_logits(source, tmp_path / "b")
    assert found.are_equal, found.line()
    assert 0 < found.bound < 2e-4
    assert found.num_same_choice == found.num_positions == 157
    assert found.largest_kl < 1e-6


@pytest.fixture
def mistaken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets megatron-core compute another model than the tensors' own."""
    real = policy_model.GPTModel.__init__

    def use(**changes: Any) -> None:
        monkeypatch.setattr(policy_model.GPTModel, "__init__", lambda self, **k: real(self, **(k | changes)))

    return use


@pytest.mark.parametrize(
    ("family", "changes"),
    [("Llama", {"rope_scaling": False}), ("Llama", {"rope_scaling_factor": 9.0}), ("Qwen2", {"rotary_base": 10100.0})],
)
def test_a_small_mistake_in_what_is_computed_is_more_than_rounding(
    family: str, changes: dict, mistaken: Callable[..., None], tmp_path: Path
) -> None:
    source = write_tiny_model(family, tmp_path / "a")
    hf_to_megatron(source, tmp_path / "b")
    mistaken(**changes)
    found = compare_logits(source, tmp_path / "b")
    assert not found.are_equal, found.line()


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[object, str]]:
    """The command: its exit code and what it has printed."""

    def command(*arguments: object) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["egrc", "convert", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, "".join(capsys.readouterr())

    return command


def test_the_command_says_yes_with_0_and_no_with_8(verify: Callable, tmp_path: Path) -> None:
    source = write_tiny_model("Qwen2", tmp_path / "a")
    hf_to_megatron(source, tmp_path / "b")
    code, text = verify(source, tmp_path / "b", "--logits")
    assert code == 0
    assert "26 tensors are equal, bit by bit" in text
    assert "the likeliest token agrees at 157 of 157 positions, KL is at most" in text
    other = change_config(write_tiny_model("Qwen2", tmp_path / "c"), rope_parameters=PLAIN | {"rope_theta": 1e6})
    code, text = verify(source, other, "--logits")
    assert code == 8
    assert "egrc: error: the checkpoints differ: config.json: rope_theta is" in text


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_is_a_no_with_8_in_either_format(
    bit: int, has_manifest: bool, verify: Callable, tmp_path: Path
) -> None:
    source = write_tiny_model("Qwen2", tmp_path / "a")
    hf_to_megatron(source, tmp_path / "b")
    megatron_to_hf(tmp_path / "b", tmp_path / "c")
    for folder, weights in (("b/iter_0000001", "__0_0.distcp"), ("c", "model.safetensors")):
        if not has_manifest:
            (tmp_path / folder / MANIFEST).unlink()
        file = tmp_path / folder / weights
        sound = bytearray(file.read_bytes())
        values = load_file(source / "model.safetensors")["model.norm.weight"].numpy().tobytes()
        place = sound.index(values) + 5
        file.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << bit]) + sound[place + 1 :])
        for pair in ((source, tmp_path / folder), (tmp_path / folder, source)):
            code, text = verify(*pair)
            assert (code, text.count("egrc: error: ")) == (8, 1), text
            assert "norm" in text


def test_values_that_are_no_numbers_on_both_sides_are_equal_bits_and_no_agreement_of_logits(
    verify: Callable, tmp_path: Path
) -> None:
    source = write_tiny_model("Qwen2", tmp_path / "a")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, source / "model.safetensors")
    hf_to_megatron(source, tmp_path / "b")
    code, text = verify(source, tmp_path / "b")
    assert (code, "26 tensors are equal, bit by bit" in text) == (0, True)
    code, text = verify(source, tmp_path / "b", "--logits")
    assert (code, "logits that are no numbers" in text) == (8, True), text


def test_logits_alone_can_say_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistaken: Callable[..., None]
) -> None:

    source = write_tiny_model("Qwen2", tmp_path / "a")
    hf_to_megatron(source, tmp_path / "b")
    mistaken(rotary_base=1e6)
    result = CliRunner().invoke(app, ["verify", str(source), str(tmp_path / "b"), "--logits"])
    assert isinstance(result.exception, CheckpointError)
    assert "logits in float32 differ by at most" in str(result.exception)


def test_values_that_are_no_numbers_are_no_agreement(tmp_path: Path) -> None:
    source = write_tiny_model("Qwen2", tmp_path / "a")
    write_tiny_model("Qwen2", tmp_path / "b")
    tensors = load_file(tmp_path / "b/model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, tmp_path / "b/model.safetensors")
    assert not compare_logits(source, tmp_path / "b").are_equal
