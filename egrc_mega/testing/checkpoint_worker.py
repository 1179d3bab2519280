"""A trainer reduced to its checkpoints: it holds a run folder and commits a large state after every step."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor

from egrc_mega.checkpoint.store import CheckpointStore, load
from egrc_mega.policy import distributed
from egrc_mega.run_folder import RunFolder
from egrc_mega.sections.policy import MegatronSection

NUM_TENSORS, SIDE = 28, 1000
STATE_BYTES = NUM_TENSORS * SIDE * SIDE * 4
"""112 MB."""
NUM_STEPS = 6
END = "end.sha256"
FAILED = "failed"


class LargeState:
    """Stands for a policy: tensors that every step changes, so that each step's bytes are its own."""

    def __init__(self, companions: Path) -> None:
        self.companions = companions
        generator = torch.Generator().manual_seed(1)
        self.tensors = {f"weight.{i}": torch.randn(SIDE, SIDE, generator=generator) for i in range(NUM_TENSORS)}

    def step(self, number: int) -> None:
        """Change every tensor, as an update would."""
        for tensor in self.tensors.values():
            tensor.mul_(1.0 + 1.0 / number).add_(number)

    def digest(self) -> str:
        """SHA-256 over all tensors."""
        digest = hashlib.sha256()
        for tensor in self.tensors.values():
            digest.update(tensor.numpy().data)
        return digest.hexdigest()

    def sharded_state(self, *, is_loading: bool) -> dict[str, Any]:
        """As `policy.engine.Policy` has it."""
        return self.sharded_model()

    def load_state(self, state: dict[str, Any]) -> None:
        """As `policy.engine.Policy` has it."""
        self.load_model(state)

    def sharded_model(self) -> dict[str, Any]:
        """As `policy.engine.Policy` has it."""
        return {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in self.tensors.items()}

    def load_model(self, state: dict[str, Any]) -> None:
        """As `policy.engine.Policy` has it."""
        self.tensors = {name: state[name] for name in self.tensors}


def train_large_state(run_dir: Path, companions: Path) -> None:
    """Claim the run folder, go on from the newest whole step, and write the end's digest.

    The process is the leader of a session and group of its own, so that whatever outlives it can be found.
    """
    os.setsid()
    distributed.initialize(MegatronSection(), timeout_s=60)
    with RunFolder.claim(run_dir, resume=(run_dir / "metrics.jsonl").exists()) as folder:
        folder.metrics.touch()
        store = CheckpointStore(run_dir / "checkpoints", keep=2)
        state, done = LargeState(companions), 0
        if (newest := store.newest()) is not None:
            load(newest, state)
            done = int(store.state(newest)["step"])
        for number in range(done + 1, NUM_STEPS + 1):
            state.step(number)
            store.save(number, state, {"seed": 1}, is_stage_end=number == 2)
        (run_dir / END).write_text(state.digest())
    distributed.finalize()
