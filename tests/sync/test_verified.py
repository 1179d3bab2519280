"""Servers that cannot say what they hold must not be taken for servers that hold the right weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.errors import RolloutError
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sync.disk import DiskSync
from egrc_mega.sync.transport import Verified
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.tiny_model import write_tiny_qwen2


def test_a_server_without_checksums_is_refused_with_the_field_and_the_remedy(tmp_path: Path) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    architecture, state = read_architecture(model), load_file(model / "model.safetensors")
    tensors = iter([(name, state[name]) for entry in architecture.entries() for name in entry.hf])
    with FakeServer() as fake:
        section = RolloutSection(server="external", urls=(fake.url,))
        with Fleet.start(section, model, "v0", tmp_path) as fleet:
            sync = Verified(DiskSync(tmp_path / "weights", model, fleet), fleet, 1, "cpu")
            with pytest.raises(RolloutError) as caught:
                sync.publish(tensors, architecture, torch.float32, "v1")
    text = str(caught.value)
    assert text.startswith(f"sync.verify_every: 1, but {fake.url} refused checksums with 404")
    assert "or set it to 0" in text
