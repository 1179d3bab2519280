"""What befalls each round of a soak: a value, and a pure function of the seed and the round's number."""

from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from egrc_mega.faults import SAVE_POINTS, UPDATE_POINTS

STEPS_PER_STAGE = 5
NUM_STEPS = 2 * STEPS_PER_STAGE
SAVED_STEPS = (2, 4, 5, 6, 8, 10)
"""Every second one, and the ends of both stages."""
NUM_RANKS = NUM_SERVERS = 2
GARBAGE = (
    "nothing",
    "half of it",
    "a page",
    "an error inside 200",
    "status 500",
    "another request",
    "a token too few",
    "log-probs that are no numbers",
)
"""What stands in place of a server's reply; `link` makes it."""

Servers = Literal["own", "external"]
"""Who starts the servers: the run itself, or `egrc serve`, to which links of our own lead."""


class Kind(NamedTuple):
    """A kind of fault."""

    name: str
    weight: int = 4
    """How often it is drawn, against the others'."""
    servers: tuple[Servers, ...] = ("own", "external")
    """Whose servers it needs."""
    is_costly: bool = False
    """The run, or its supervisor, has to be started again; at most `MOST_COSTLY` of them in a round."""


KINDS = (
    Kind("kill rank", 6, is_costly=True),
    Kind("stop rank", 1, is_costly=True),
    Kind("pause rank"),
    Kind("kill launcher", 2, is_costly=True),
    Kind("kill command", 2, is_costly=True),
    Kind("kill supervisor", 2, is_costly=True),
    Kind("terminate", 2, is_costly=True),
    Kind("flip byte", 4, is_costly=True),
    Kind("full disk", 6, is_costly=True),
    Kind("kill server"),
    Kind("stop server", 1),
    Kind("pause server"),
    Kind("garbage", 8, ("external",)),
    Kind("lost links", 8, ("external",)),
)
NUM_FAULTS, MOST_COSTLY = 5, 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, once."""

    kind: str
    step: int
    """It strikes within this step where a `point` names the place, and otherwise once the step before is recorded."""
    target: int = 0
    """Number of a rank or of a server."""
    point: str = ""
    """Of `egrc_mega.faults`; empty: it comes from outside."""
    detail: str = ""
    """An error of the operating system, a kind of garbage, or which file's byte."""

    @property
    def entry(self) -> str:
        """What arms it in the variable `EGRC_FAULTS`; empty: it comes from outside."""
        acts = {"kill rank": "SIGKILL", "stop rank": "SIGSTOP", "pause rank": "SIGSTOP", "full disk": self.detail}
        return f"{self.point}@{self.step}={acts[self.kind]}#{self.target}" if self.point else ""

    def __str__(self) -> str:
        parts = (self.kind, str(self.target), self.point, self.detail, f"in step {self.step}")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Plan:
    """A round: how the run is set up, and what befalls it."""

    number: int
    servers: Servers
    is_asynchronous: bool
    """Whether checkpoints are written beside the training."""
    goes_on: bool
    """Whether the run goes on when a checkpoint cannot be written."""
    faults: tuple[Fault, ...]
    """By their steps."""


def plan(seed: int, number: int) -> Plan:
    """The `number`-th round of a seed, the same at every call."""
    chance = Random(f"{seed}/{number}")
    servers: Servers = chance.choice(("own", "external"))
    kinds: list[Kind] = []
    while len(kinds) < NUM_FAULTS:
        left = [kind for kind in KINDS if servers in kind.servers and kind not in kinds]
        if sum(kind.is_costly for kind in kinds) == MOST_COSTLY:
            left = [kind for kind in left if not kind.is_costly]
        kinds += chance.choices(left, [kind.weight for kind in left]) if left else []
        if not left:
            break
    faults = sorted((_fault(kind.name, chance) for kind in kinds), key=lambda fault: fault.step)
    return Plan(number, servers, chance.random() < 0.5, chance.random() < 0.5, tuple(faults))


def _fault(kind: str, chance: Random) -> Fault:
    step, target = chance.randint(2, NUM_STEPS - 1), chance.randrange(2)
    if kind == "kill rank" and chance.random() < 0.5:
        point = chance.choice(SAVE_POINTS)
        return Fault(kind, chance.choice(SAVED_STEPS), target if point == "checkpoint.shard" else 0, point)
    if kind in ("kill rank", "stop rank", "pause rank"):
        return Fault(kind, step, target, chance.choice(("train.before_update", *UPDATE_POINTS)))
    if kind == "full disk":
        error = chance.choice(("ENOSPC", "EIO"))
        return Fault(kind, chance.choice(SAVED_STEPS), target, "checkpoint.shard", error)
    if kind == "flip byte":  # a checkpoint is there by then
        step = max(step, SAVED_STEPS[0] + 2)
    detail = {"garbage": chance.choice(GARBAGE), "flip byte": str(chance.randrange(10**6))}.get(kind, "")
    has_target = kind in ("kill server", "stop server", "pause server", "garbage", "lost links")
    return Fault(kind, step, target if has_target else 0, detail=detail)
