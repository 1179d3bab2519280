"""Mixtures of experts train on expert- and data-parallel ranks: two steps of the command line, on the CPU."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from egrc_mega.miniature.tokenizer import write_tokenizer
from egrc_mega.testing.runs import events, finish_run, start_run
from egrc_mega.testing.tiny_model import write_tiny_model

pytestmark = pytest.mark.long_file

# lengths alone tell the responses of a random model apart, and explore looks at them
STAGES = [
    {
        "method": "explore",
        "steps": 2,
        "clip_len": 10,
        "rollout": {"n": 4, "max_new_tokens": 20},
        "reward": {"length_unit": 5},
        "optim": {"lr": 1e-4},
    }
]


def test_experts_on_two_by_two_ranks_train_what_one_rank_trains(root: Path, tmp_path: Path) -> None:
    model = write_tiny_model("Qwen3Moe", tmp_path / "model", max_position_embeddings=512)
    write_tokenizer(model)
    overrides = [f"model.path={model}", "evaluation.num_problems=4", "evaluation.max_new_tokens=20"]
    layouts = {"alone": [], "spread": ["megatron.expert_model_parallel_size=2"]}
    for name, layout in layouts.items():
        ranks = ["--nproc-per-node", "4"] if layout else []
        run = start_run(root, tmp_path / name, *ranks, overrides=(*overrides, *layout), stages=STAGES)
        finish_run(run)
    for name in layouts:
        steps = events(tmp_path / name, "step")
        assert len(steps) == 2
        assert all(0 < step["logprob_diff_max"] <= 1e-4 for step in steps)
    first = [events(tmp_path / name, "step")[0] for name in layouts]
    assert first[0]["grad_norm"] > 0
    for field in ("loss", "grad_norm", "entropy"):
        assert first[1][field] == pytest.approx(first[0][field], rel=1e-4, abs=1e-6), field
    before, after = (load_file(path / "model.safetensors") for path in (model, tmp_path / "spread/export"))
    assert after.keys() == before.keys()
    moved = [name for name in before if not after[name].equal(before[name])]
    assert any(".experts." in name for name in moved) and any(".gate." in name for name in moved)
