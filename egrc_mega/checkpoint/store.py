"""Commits the state of a run: one folder per step that exists under its name only when it is whole.

megatron-core writes the shards into `step_N.tmp`; then rank 0 adds `state.json` and a manifest of sizes and SHA-256
sums, syncs everything to disk, renames the folder and points `latest` at it. A whole step is never overwritten. Resume
takes the newest step whose manifest verifies; one that is torn or altered is passed over, by name.

The ends of stages stay for ever: they are the models of the paper's table; so does the step that `best` names. Of the
other steps the newest few stay.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from megatron.core import dist_checkpointing

from egrc_mega.checkpoint.pointers import BEST, pointed
from egrc_mega.checkpoint.writer import write_shards
from egrc_mega.convert.companions import copy_companions
from egrc_mega.convert.pickles import require_harmless
from egrc_mega.convert.source import COMPANION_FOLDER
from egrc_mega.errors import CheckpointError
from egrc_mega.manifest import damages, is_complete, sync, write_manifest

STATE = "state.json"
IS_STAGE_END = "is_stage_end"
"""Key of the state: such a step is never pruned."""


class Stateful(Protocol):
    """What the store saves: see `policy.engine.Policy`."""

    companions: Path

    def sharded_state(self, *, is_loading: bool) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...

    def sharded_model(self) -> dict[str, Any]: ...

    def load_model(self, state: dict[str, Any]) -> None: ...


class CheckpointStore:
    """The `checkpoints/` folder of a run. Whoever writes there holds the run's lock."""

    def __init__(self, folder: Path, keep: int) -> None:
        """`keep`: how many committed steps stay besides the ends of stages."""
        self.folder = folder
        self.keep = keep

    def save(self, step: int, policy: Stateful, state: dict[str, Any], *, is_stage_end: bool = False) -> None:
        """Commit a step; collective.

        Args:
            state: small and JSON: position in the data, stage, seed.
            is_stage_end: the step stays however many follow it.
        """
        final = self.folder / f"step_{step:06d}"
        partial = self.folder / f"{final.name}.tmp"
        if dist.get_rank() == 0:
            for torn in self.folder.glob("step_*.tmp"):  # a killed trainer was writing it
                shutil.rmtree(torn)
            # an altered step of the same number may be left from before a resume passed it over
            shutil.rmtree(final, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        write_shards(policy.sharded_state(is_loading=False), partial)
        if dist.get_rank() == 0:
            (partial / STATE).write_text(json.dumps(state | {"step": step, IS_STAGE_END: is_stage_end}))
            # with them the step can be exported without the model it started from
            (partial / COMPANION_FOLDER).mkdir()
            copy_companions(policy.companions, partial / COMPANION_FOLDER)
            write_manifest(partial, {}, durable=True)
            partial.rename(final)
            sync(self.folder)
            _replace_text(self.folder / "latest", final.name)
            self._prune()
        dist.barrier()

    def newest(self) -> Path | None:
        """The newest step that verifies, or None. What does not verify is named on stderr."""
        for path in sorted(self.folder.glob("step_??????"), reverse=True):
            problems = damages(path)
            if not problems:
                return path
            print(f"checkpoint {path} is passed over: {problems[0]}", flush=True)
        return None

    def state(self, path: Path) -> dict[str, Any]:
        """The small state of a step: see `read_state`."""
        return read_state(path)

    def _prune(self) -> None:
        """Remove what `keep` leaves no room for. A step that is not whole neither counts nor vanishes."""
        committed = [path for path in sorted(self.folder.glob("step_??????")) if is_complete(path)]
        others = [path for path in committed if not read_state(path).get(IS_STAGE_END)]
        best = pointed(self.folder, BEST)
        for old in others[: -self.keep]:
            if old.name != best:
                shutil.rmtree(old)


def load(path: Path, policy: Stateful) -> None:
    """Load a verified step into the policy (collective).

    Raises:
        CheckpointError: its pickles would do more than describe tensors; nothing of them has been run.
    """
    require_harmless(path)
    loaded = dist_checkpointing.load(policy.sharded_state(is_loading=True), str(path))
    policy.load_state(loaded)


def save_model(folder: Path, policy: Stateful) -> None:
    """Write the weights alone into an empty folder, in megatron's sharded format (collective)."""
    write_shards({"model": policy.sharded_model()}, folder)


def load_model(path: Path, policy: Stateful) -> None:
    """Load the weights alone, of a step or of what `save_model` wrote (collective); raises as `load`."""
    require_harmless(path)
    policy.load_model(dist_checkpointing.load({"model": policy.sharded_model()}, str(path))["model"])


def read_state(path: Path) -> dict[str, Any]:
    """The small state of a step.

    Raises:
        CheckpointError: the file is missing or torn.
    """
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path / STATE}: {error}; give the folder of a committed step") from error
    return state


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text)
    sync(partial)
    partial.replace(path)
