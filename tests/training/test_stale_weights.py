"""A server that takes every update, names its weights rightly and keeps its old ones, under noise like that of bf16."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from egrc_mega.config.load import load_config
from egrc_mega.rollout.start.process import embedded_server
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.runs import events, finish_run, start_run

STAGES = [{"method": "compress", "steps": 3, "clip_len": 72, "rollout": {"n": 4}, "optim": {"lr": 1e-6}}]


def with_noise(path: str, data: bytes) -> bytes:
    """A server's log-probs, each off by about 1e-2."""
    if path != "/generate":
        return data
    reply = orjson.loads(data)
    noise = np.random.default_rng(len(data)).normal(0, 1e-2, len(reply["meta_info"]["output_token_logprobs"]))
    for token, off in zip(reply["meta_info"]["output_token_logprobs"], noise.tolist(), strict=True):
        token[0] = min(0.0, token[0] + off)
    return orjson.dumps(reply)


@pytest.fixture
def fake(base_model: Path, tmp_path: Path) -> Iterator[FakeServer]:
    child = embedded_server(base_model, port=0, weight_version="start", max_batch_size=256, log=tmp_path / "server.log")
    try:
        with FakeServer(upstream=child.wait_until_ready(60)) as server:
            server.rewrite_reply = with_noise
            yield server
    finally:
        child.stop()


def bounds_of_bf16(root: Path) -> tuple[str, ...]:
    """As the recipes state them."""
    policy = load_config(root / "configs/r1_distill_qwen_1p5b.yaml").config.policy
    names = ("logprob_median_bound", "logprob_p99_bound", "logprob_bound")
    return tuple(f"policy.{name}={getattr(policy, name)}" for name in names)


@pytest.mark.parametrize("keeps_old_weights", [True, False])
def test_a_server_that_keeps_its_old_weights_is_found_within_two_updates_under_bf16s_noise(
    root: Path, base_model: Path, fake: FakeServer, tmp_path: Path, keeps_old_weights: bool
) -> None:
    def old_weights(path: str, data: bytes) -> bytes:
        if path != "/update_weights_from_disk":
            return data
        return orjson.dumps(orjson.loads(data) | {"model_path": str(base_model)})

    if keeps_old_weights:
        fake.rewrite_request = old_weights
    overrides = ("rollout.server=external", f'rollout.urls=["{fake.url}"]', *bounds_of_bf16(root))
    run = start_run(root, tmp_path / "run", overrides=overrides, stages=STAGES)
    output = finish_run(run, expected=5 if keeps_old_weights else 0)
    steps = events(tmp_path / "run", "step")
    if keeps_old_weights:
        assert len(steps) < 2
        assert f"{fake.url} does not serve weights v1 as they are: " in output.splitlines()[-1]
        assert "it has kept older ones" in output.splitlines()[-1]
    else:
        # the noise is there, and stops nobody
        assert len(steps) == 3
        assert all(step["logprob_diff_median"] > 1e-3 for step in steps)


def test_every_shipped_configuration_compares_the_weights_at_least_at_every_second_update(root: Path) -> None:
    recipe = root / "configs/r1_distill_qwen_1p5b.yaml"
    methods = sorted((root / "configs/methods").glob("*.yaml"))
    shipped = [[file] for file in sorted((root / "configs").glob("*.yaml"))] + [[recipe, file] for file in methods]
    assert len(shipped) >= 7
    assert all(1 <= load_config(files).config.sync.verify_every <= 2 for files in shipped)
