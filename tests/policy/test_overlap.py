"""Communication behind computation changes no bit, whoever reads weights after a step. On gloo; NCCL is not here.

The ranks' sums are of two terms, so that not even the buckets' boundaries can change them.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.policy import overlap
from egrc_mega.policy.overlap import Overlap, choose_overlap
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.policy_worker import overlapping_updates
from egrc_mega.testing.tiny_model import write_tiny_qwen2


@pytest.mark.parametrize("tied", [True, False])
def test_every_reader_sees_the_weights_of_the_last_step(tmp_path: Path, tied: bool) -> None:
    run_on_gloo(overlapping_updates, 2, write_tiny_qwen2(tmp_path / "model", tie_word_embeddings=tied), tmp_path)
    plain, overlapped = (load_file(tmp_path / f"{overlaps}.safetensors") for overlaps in (False, True))
    assert plain.keys() == overlapped.keys()
    different = [name for name in plain if not torch.equal(plain[name], overlapped[name])]
    assert different == []


@pytest.mark.parametrize(
    ("world", "section", "expected"),
    [
        ({}, {}, Overlap(True, True)),
        ({"backend": "gloo"}, {}, Overlap(False, False)),
        ({"size": 1}, {}, Overlap(False, False)),
        ({"num_moe_experts": 4}, {}, Overlap(False, False)),
        ({"pieces": 2}, {}, Overlap(True, False)),
        ({}, {"use_distributed_optimizer": False}, Overlap(True, False)),
        ({}, {"overlap_grad_reduce": False}, Overlap(False, False)),
        ({}, {"overlap_param_gather": False}, Overlap(True, False)),
        ({"backend": "gloo"}, {"overlap_grad_reduce": True, "overlap_param_gather": True}, Overlap(True, True)),
    ],
)
def test_both_are_on_where_they_pay(
    world: dict[str, Any], section: dict[str, Any], expected: Overlap, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"backend": "nccl", "size": 4, "num_moe_experts": None, "pieces": None} | world
    group = SimpleNamespace(size=lambda: facts["size"])
    monkeypatch.setattr(overlap.parallel_state, "get_data_parallel_group", lambda with_context_parallel: group)
    monkeypatch.setattr(overlap.dist, "get_backend", lambda _group: facts["backend"])
    config = SimpleNamespace(
        num_moe_experts=facts["num_moe_experts"], virtual_pipeline_model_parallel_size=facts["pieces"]
    )
    assert choose_overlap(config, MegatronSection(**section)) == expected
