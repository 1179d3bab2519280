"""Two ranks that commit a state after every step, killed at random moments and begun again, until they come through.

After every step, and after every resume, each rank notes the digest of what it holds. All notes must be those of ranks
that nobody has killed.
"""

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch.distributed as dist

from egrc_mega.checkpoint.pointers import LATEST, pointed
from egrc_mega.checkpoint.retention import size_of, step_number, steps, unfinished
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.manifest import damages
from egrc_mega.policy import distributed
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.testing.checkpoint_worker import TensorState, resume
from egrc_mega.testing.gloo import HANG_LIMIT_S, start_on_gloo

WORLD_SIZE, NUM_STEPS = 2, 30
KILLED_WITHIN = 4
"""Steps, at the pace of an undisturbed run: so the kills of one run are spread over its steps."""
NUM_TENSORS, SIDE = 16, 256
STEP_BYTES = WORLD_SIZE * NUM_TENSORS * SIDE * SIDE * 4
"""8 MiB."""
SURVIVOR_S = 10.0
"""So long may a rank live on alone; then it is killed, as a launcher does it."""

Ranks = list[BaseProcess]
Note = tuple[int, int, str]
"""Of a rank: its number, a step, the digest of what it holds after it."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One of them, and what came after."""

    victims: str
    """Ranks that were killed; the others ended after them."""
    moment: str
    """What the folder of steps was like just before."""
    resumed: int
    """The newest step that was whole, from which the next ranks went on with the bits of undisturbed ones; 0: none."""


def random_kills(room: Path, *, seed: int, count: int, asynchronous: bool) -> Iterator[Kill]:
    """Kill so often; each kill is told once the next ranks have resumed. At the end they come through.

    Args:
        room: an existing folder.
        seed: of the moments, as shares of an undisturbed run, and of the victims.

    Raises:
        AssertionError: a resume was not from the newest whole step, or some rank's bits are not the undisturbed ones.
    """
    chance = random.Random(seed)
    ranks, _steps = _start(room / "undisturbed", asynchronous)
    started = time.monotonic()
    _finish(ranks)
    longest_s = (time.monotonic() - started) * KILLED_WITHIN / NUM_STEPS
    expected = _notes(room / "undisturbed")
    assert len(expected) == WORLD_SIZE * (NUM_STEPS + 1)
    run = room / "killed"
    ranks, _steps = _start(run, asynchronous)
    while count:
        time.sleep(chance.uniform(0, longest_s))
        victims, moment = chance.choice([(0,), (1,), (0, 1)]), _moment(run)
        if not all(rank.is_alive() for rank in ranks):
            _come_through(ranks, run, expected)
            ranks, _steps = _start(run, asynchronous)
            continue
        _kill(ranks, victims)
        made, newest = max(step for _rank, step, _digest in _notes(run)), _newest(run)
        # a step has been committed when the next is made; in the background, when the one after that is
        assert newest >= made - 1 - asynchronous, f"step {made} was made, and only {newest} is whole"
        ranks, resumed = _start(run, asynchronous)
        assert resumed == {newest} and _notes(run) <= expected
        yield Kill(" and ".join(map(str, victims)), moment, newest)
        count -= 1
    _come_through(ranks, run, expected)


def _train(run: Path, asynchronous: bool) -> None:
    """What each rank does."""
    distributed.initialize(MegatronSection(), timeout_s=HANG_LIMIT_S)
    store = CheckpointStore(run / "checkpoints", keep=2, asynchronous=asynchronous)
    state = TensorState(run / "companions", NUM_TENSORS, SIDE)
    done = resume(store, state)
    with (run / f"notes.{dist.get_rank()}").open("a") as notes:
        print(done, state.digest(), file=notes, flush=True)
        for number in range(done + 1, NUM_STEPS + 1):
            state.step(number)
            print(number, state.digest(), file=notes, flush=True)
            store.save(number, state, {})
    store.settle()
    distributed.finalize()


def _start(run: Path, asynchronous: bool) -> tuple[Ranks, set[int]]:
    """Begin the ranks, and wait until all of them have resumed; returns also from which step."""
    (run / "companions").mkdir(parents=True, exist_ok=True)
    before = [len(_lines(run, rank)) for rank in range(WORLD_SIZE)]
    ranks = start_on_gloo(_train, WORLD_SIZE, run, asynchronous)
    deadline = time.monotonic() + HANG_LIMIT_S
    while any(len(_lines(run, rank)) == before[rank] for rank in range(WORLD_SIZE)):
        assert time.monotonic() < deadline and not any(rank.exitcode for rank in ranks), "no resume"
        time.sleep(0.01)
    return ranks, {int(_lines(run, rank)[before[rank]].split()[0]) for rank in range(WORLD_SIZE)}


def _kill(ranks: Ranks, victims: tuple[int, ...]) -> None:
    for victim in victims:
        ranks[victim].kill()
    for rank in ranks:
        rank.join(SURVIVOR_S)
        rank.kill()
        rank.join()


def _finish(ranks: Ranks) -> None:
    for rank in ranks:
        rank.join(HANG_LIMIT_S)
        assert rank.exitcode == 0


def _come_through(ranks: Ranks, run: Path, expected: set[Note]) -> None:
    """The run ends as an undisturbed one, and makes room for the next."""
    _finish(ranks)
    assert _notes(run) == expected
    shutil.rmtree(run)


def _moment(run: Path) -> str:
    folder = run / "checkpoints"
    for partial in sorted(unfinished(folder), reverse=True):
        share = min(1.0, size_of(partial) / STEP_BYTES)
        return f"{partial.name.split('.')[0]}: {share:.0%} there"
    return f"after {pointed(folder, LATEST)}"


def _newest(run: Path) -> int:
    """The newest step that is whole, as somebody sees who knows nothing of the store."""
    return max((step_number(step) for step in steps(run / "checkpoints") if not damages(step)), default=0)


def _notes(run: Path) -> set[Note]:
    parts = [(rank, line.split()) for rank in range(WORLD_SIZE) for line in _lines(run, rank)]
    return {(rank, int(step), digest) for rank, (step, digest) in parts}


def _lines(run: Path, rank: int) -> list[str]:
    path = run / f"notes.{rank}"
    return path.read_text().splitlines() if path.exists() else []
