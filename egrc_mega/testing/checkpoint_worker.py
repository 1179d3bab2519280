"""Trainers reduced to their checkpoints: they commit a state after every step, and are killed, refused, resharded."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing import ShardedTensor

from egrc_mega.checkpoint import commit
from egrc_mega.checkpoint.store import CheckpointStore, load, read_state
from egrc_mega.errors import CheckpointError, EgrcError, RelayedError
from egrc_mega.faults import VARIABLE
from egrc_mega.policy import distributed
from egrc_mega.run_folder import RunFolder
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.testing.disks import leave_free, set_read_only
from egrc_mega.testing.gloo import HANG_LIMIT_S

NUM_TENSORS, SIDE = 28, 1000
STATE_BYTES = NUM_TENSORS * SIDE * SIDE * 4
"""112 MB."""
NUM_STEPS = 6
END = "end.sha256"


class TensorState:
    """Stands for a policy: tensors that every step changes, so that each step's bytes are its own.

    Of several ranks each has its own rows of every tensor.
    """

    def __init__(self, companions: Path, num_tensors: int = NUM_TENSORS, side: int = SIDE) -> None:
        self.companions = companions
        generator = torch.Generator().manual_seed(1 + dist.get_rank())
        self.tensors = {f"weight.{i}": torch.randn(side, side, generator=generator) for i in range(num_tensors)}

    def step(self, number: int) -> None:
        """Change every tensor, as an update would."""
        for tensor in self.tensors.values():
            tensor.mul_(1.0 + 1.0 / number).add_(number)

    def digest(self) -> str:
        """SHA-256 over all tensors of this rank."""
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
        place = (0, dist.get_rank(), dist.get_world_size())
        return {name: ShardedTensor.from_rank_offsets(name, tensor, place) for name, tensor in self.tensors.items()}

    def load_model(self, state: dict[str, Any]) -> None:
        """As `policy.engine.Policy` has it."""
        self.tensors = {name: state[name] for name in self.tensors}


def train_large_state(run_dir: Path, companions: Path, asynchronous: bool = False) -> None:
    """Claim the run folder, go on from the newest whole step, and write the end's digest.

    The process is the leader of a session and group of its own, so that whatever outlives it can be found.
    """
    os.setsid()
    distributed.initialize(MegatronSection(), timeout_s=60)
    with RunFolder.claim(run_dir, resume=(run_dir / "metrics.jsonl").exists()) as folder:
        folder.metrics.touch()
        store = CheckpointStore(run_dir / "checkpoints", keep=2, asynchronous=asynchronous)
        train(store, TensorState(companions), NUM_STEPS, run_dir / END)
    distributed.finalize()


def train(store: CheckpointStore, state: TensorState, num_steps: int, end: Path) -> None:
    """Go on from the newest whole step, commit every step, and write the end's digest."""
    for number in range(resume(store, state) + 1, num_steps + 1):
        state.step(number)
        store.save(number, state, {"seed": 1}, is_stage_end=number == 2)
    store.settle()
    end.write_text(state.digest())


def resume(store: CheckpointStore, state: TensorState) -> int:
    """Load the newest whole step; returns its number, 0: there is none."""
    newest = store.newest()
    if newest is None:
        return 0
    load(newest, state)
    return int(store.state(newest)["step"])


FEW_STEPS, SMALL = 4, (3, 5)


def killed_at(faults: list[str], room: Path, companions: Path) -> None:
    """Each fault in a run of its own: a process is killed by it, and the next one ends that run and begins another.

    For each fault `room`/<number> has the run, and in `found` the step that the resume has gone on from. Faults that
    begin with "async " are of asynchronous saves. Nothing may have been started in this process yet.
    """
    for number in range(len(faults) + 1):
        child = os.fork()
        if not child:
            _resume_and_be_killed(faults, number, room, companions)
        _pid, status = os.waitpid(child, 0)
        expected = 0 if number == len(faults) else -9
        assert os.waitstatus_to_exitcode(status) == expected, faults[number]


def _resume_and_be_killed(faults: list[str], number: int, room: Path, companions: Path) -> None:
    try:
        distributed.initialize(MegatronSection(), timeout_s=60)
        for run, fault in ((number - 1, ""), (number, "".join(faults[number : number + 1]))):
            if not 0 <= run < len(faults):
                continue
            folder = room / str(run)
            folder.mkdir(exist_ok=True)
            os.environ[VARIABLE] = fault.removeprefix("async ")
            store = CheckpointStore(folder / "checkpoints", keep=1, asynchronous=faults[run].startswith("async "))
            if not fault:
                (folder / "found").write_text(str(store.newest()))
            train(store, TensorState(companions, *SMALL), FEW_STEPS, folder / END)
    finally:
        os._exit(0 if number == len(faults) else 1)


@contextmanager
def armed(*faults: str) -> Iterator[None]:
    """Fault points of this process, meanwhile."""
    before = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = ",".join(faults)
    try:
        yield
    finally:
        os.environ[VARIABLE] = before


def refused_on_one_rank(room: Path, companions: Path, disk: Path | None) -> None:
    """On two ranks: one of them cannot write; all of them fail, keep the step before, and go on or stop.

    Args:
        disk: one that may be made read-only and full; None: there is none.
    """
    distributed.initialize(MegatronSection(), timeout_s=HANG_LIMIT_S)
    state = TensorState(companions, *SMALL)
    refusals = [("ENOSPC", 1, False), ("EIO", 0, False), ("ENOSPC", 1, True), ("EIO", 0, True)]
    for error, rank, asynchronous in refusals:
        folder = room / f"{error} {rank} {asynchronous}"
        fault = f"checkpoint.shard@2={error}#{rank}"
        _stops(CheckpointStore(folder, keep=1, asynchronous=asynchronous), state, fault, error, rank)
        going_on = {"on_failure": "continue", "max_failures": 2}
        _goes_on(CheckpointStore(folder, keep=1, asynchronous=asynchronous, **going_on), state, fault)  # type: ignore[arg-type]
    dist.barrier()
    _verifies_in_parts(CheckpointStore(folder, keep=1), state)
    if disk:
        _true_disk(disk, state)
    distributed.finalize()


def _true_disk(disk: Path, state: TensorState) -> None:
    """Both ranks hear of a disk that is read-only, and of one that fills up while they write."""
    commit.SPARE_BYTES = -(2**40)
    store = CheckpointStore(disk / "checkpoints", keep=1)
    store.save(1, state, {})
    for reason, spoil in (("Read-only file system", set_read_only), ("No space left on device", leave_free)):
        if dist.get_rank() == 0:
            spoil(disk)
        told = _refusal(lambda: store.save(2, state, {}))
        assert f"step_000002.tmp cannot be written by rank 0: {reason}" in str(told) and "\n" not in str(told)
        _only(store, "step_000001")
        if dist.get_rank() == 0:
            set_read_only(disk, False)
            (disk / "filler").unlink(missing_ok=True)
    store.save(2, state, {})
    _only(store, "step_000002")


def _stops(store: CheckpointStore, state: TensorState, fault: str, error: str, rank: int) -> None:
    store.save(1, state, {})
    store.settle()
    with armed(fault):
        told = _refusal(lambda: (store.save(2, state, {}), store.settle()))
    assert isinstance(told, CheckpointError if dist.get_rank() == 0 else RelayedError)
    assert told.exit_code == CheckpointError.exit_code
    reason = os.strerror(getattr(errno, error))
    assert f"step_000002.tmp cannot be written by rank {rank}: {reason}" in str(told) and "\n" not in str(told)
    _only(store, "step_000001")


def _goes_on(store: CheckpointStore, state: TensorState, fault: str) -> None:
    with armed(fault, fault.replace("@2", "@3")):
        (outcome,) = [*store.save(2, state, {}), *store.settle()]
        assert outcome.step == 2 and "cannot be written by rank" in str(outcome.problem)
        _only(store, "step_000001")
        told = _refusal(lambda: (store.save(3, state, {}), store.settle()))
    assert dist.get_rank() or "2 saves one after the other have failed" in str(told)
    (outcome,) = [*store.save(4, state, {}), *store.settle()]
    assert (outcome.step, outcome.problem) == (4, None)
    _only(store, "step_000004")


def _verifies_in_parts(store: CheckpointStore, state: TensorState) -> None:
    """Each rank reads some of the files; a damage that only the other has seen is known to both."""
    newest = store.newest()
    assert newest is not None
    load(newest, state)
    store.save(5, state, {}, is_stage_end=True)
    store.save(6, state, {})
    dist.barrier()
    files = sorted((store.folder / "step_000006").glob("*.distcp"))
    assert {file.name[:4] for file in files} == {"__0_", "__1_"}
    for file in files:
        data = file.read_bytes()
        dist.barrier()
        if dist.get_rank() == 0:
            file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        dist.barrier()
        assert store.newest() == store.folder / "step_000005"
        dist.barrier()
        if dist.get_rank() == 0:
            file.write_bytes(data)
    dist.barrier()
    assert store.newest() == store.folder / "step_000006"


def _refusal(do: Callable[[], object]) -> EgrcError:
    try:
        do()
    except EgrcError as error:
        return error
    raise AssertionError("it was not refused")


def _only(store: CheckpointStore, name: str) -> None:
    """The folder holds this whole step and nothing of any other."""
    dist.barrier()
    assert sorted(path.name for path in store.folder.iterdir()) == ["latest", name]
    newest = store.newest()
    assert newest == store.folder / name and read_state(newest)["step"] == int(name[-6:])
