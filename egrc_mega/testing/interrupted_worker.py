"""Two ranks that update a tiny policy and commit every step: one of them is killed, or spoiled, inside an update."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from egrc_mega.checkpoint.store import CheckpointStore, load
from egrc_mega.errors import PolicyError
from egrc_mega.faults import VARIABLE, begin_step
from egrc_mega.policy import distributed
from egrc_mega.policy.engine import Policy
from egrc_mega.sections.policy import MegatronSection, PolicySection
from egrc_mega.sections.stage import LossSection
from egrc_mega.testing.gloo import HANG_LIMIT_S
from egrc_mega.testing.policy_worker import ragged_samples

NUM_STEPS = 3
END = "end.safetensors"


def _policy(model: Path) -> Policy:
    distributed.initialize(MegatronSection(), timeout_s=HANG_LIMIT_S)
    return Policy(model, MegatronSection(), PolicySection(max_tokens_per_micro_batch=100))


def _update(policy: Policy, step: int) -> None:
    policy.update(ragged_samples(seed=step), 1.0, LossSection(), lr=1e-3)


def interrupted_updates(model: Path, room: Path, fault: str) -> None:
    """Go on from the newest committed step, with a fault armed, and keep the last step's weights."""
    os.environ[VARIABLE] = fault
    policy = _policy(model)
    store, done = CheckpointStore(room, 2), 0
    if (newest := store.newest()) is not None:
        load(newest, policy)
        done = int(store.state(newest)["step"])
    for step in range(done + 1, NUM_STEPS + 1):
        begin_step(step)
        _update(policy, step)
        store.save(step, policy, {})
    weights = {name: tensor.clone() for name, tensor in policy.export_hf()}
    if distributed.is_rank_0():
        save_file(weights, room / END)
    distributed.finalize()


def spoiled_gradients(model: Path) -> None:
    """The gradient of one rank has an infinite number in it: no rank takes the step, and all say why."""
    policy = _policy(model)
    before = {name: tensor.clone() for name, tensor in policy.export_hf()}
    policy.config.finalize_model_grads_func = _spoiling(policy, policy.config.finalize_model_grads_func)
    try:
        _update(policy, 1)
    except PolicyError as error:
        assert "the step is not taken" in str(error)
    else:
        raise AssertionError("a rank has taken the step")
    for name, tensor in policy.export_hf():
        assert tensor.equal(before[name]), name
    distributed.finalize()


def _spoiling(policy: Policy, finalize: Callable[..., None]) -> Callable[..., None]:
    def spoil(*args: Any, **kwargs: Any) -> None:
        if distributed.rank() == 1:
            policy.model[0].buffers[0].grad_data[3] = math.inf
        finalize(*args, **kwargs)

    return spoil
