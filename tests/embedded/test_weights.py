"""The embedded engine takes new weights of every family, whatever transformers makes of a folder's tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.embedded.engine import Engine
from egrc_mega.embedded.tensors import hf_tensors
from egrc_mega.testing.tiny_model import FAMILIES, write_tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_that_took_a_folders_weights_holds_what_one_that_began_with_them_holds(
    family: str, tmp_path: Path
) -> None:
    first, second = (write_tiny_model(family, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    engine, expected = Engine(first, "a", 16), Engine(second, "b", 16)
    assert engine.checksums() != expected.checksums()
    engine.run(lambda: engine.update_weights(second, "b")).result(30)
    assert engine.checksums() == expected.checksums()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tensors_of_a_model_are_those_of_its_folder_and_writing_them_changes_the_model(
    family: str, tmp_path: Path
) -> None:
    folder = write_tiny_model(family, tmp_path / "model")
    engine = Engine(folder, "a", 16)
    tensors = hf_tensors(engine.model)
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensors[name], tensor), name
        tensors[name].zero_()
    assert all(not parameter.any() for parameter in engine.model.parameters())
