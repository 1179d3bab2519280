"""What the two objectives of EGRC teach of the same rollouts, and whether they pull the same words both ways.

Each sample is credited twice, by `methods.compress` and by `methods.explore`. Of a connector, a is the sum of the
advantages that its occurrences get from compress, b that from explore, and

    conflict index = 1 - |a + b| / (|a| + |b|)        0: both push the same way (or one is silent); 1: they cancel out

(methods 4, item 6). The control of the paper's section 4.3 shows each group to one objective only, by its accuracy:
`entangled` is the same with a over the groups that compress and b over those that explore.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from egrc_mega.config.config import Config
from egrc_mega.diagnosis.connectors import CONNECTORS, connectors_in
from egrc_mega.methods.compress import Compress, CompressSection
from egrc_mega.methods.explore import Explore, ExploreSection
from egrc_mega.methods.method import METHODS
from egrc_mega.methods.records import Credit, View
from egrc_mega.types import Group, Sample

EVERY_TOKEN = "all tokens"


@dataclass(frozen=True, slots=True)
class Objectives:
    """The sections of both objectives, and the accuracy at which the entangled control has a group compress."""

    compress: CompressSection
    explore: ExploreSection
    threshold: float

    @classmethod
    def of(cls, config: Config | None) -> "Objectives":
        """Those of a configuration's first stages of these methods; of what it lacks, the paper's defaults."""
        stages = config.stages if config else ()
        control: Any = METHODS["entangled"].Config
        entangled = next((stage for stage in stages if isinstance(stage, control)), control())
        compress = next((stage for stage in stages if isinstance(stage, CompressSection)), entangled.compress)
        explore = next((stage for stage in stages if isinstance(stage, ExploreSection)), entangled.explore)
        return cls(compress, explore, entangled.threshold)


@dataclass(frozen=True, slots=True)
class Taught:
    """A sample with its advantage under each objective; 0.0 where the objective drops it."""

    sample: Sample
    compress: float
    explore: float
    compresses: bool
    """Its group would compress under the entangled control."""

    @property
    def entangled(self) -> tuple[float, float]:
        """The two advantages, of which the control leaves one."""
        return (self.compress, 0.0) if self.compresses else (0.0, self.explore)


def taught(groups: Sequence[Group], objectives: Objectives) -> list[Taught]:
    """Every sample of a step under both objectives."""
    view = View(step=0, state=None, seed=0)
    short = Compress(objectives.compress).credit(groups, view)
    right = Explore(objectives.explore).credit(groups, view)
    return [
        Taught(sample, _advantage(a), _advantage(b), group.accuracy >= objectives.threshold)
        for group, row_a, row_b in zip(groups, short, right, strict=True)
        for sample, a, b in zip(group.samples, row_a, row_b, strict=True)
    ]


def _advantage(credit: Credit) -> float:
    return float(np.asarray(credit.advantage)) if credit.kept else 0.0


def conflict(samples: Sequence[Taught]) -> dict[str, Any]:
    """Masses a and b and the conflict index: of each connector, each kind and all tokens, both ways."""
    ways = {"same_rollouts": _masses(samples, entangled=False), "entangled": _masses(samples, entangled=True)}
    return {
        way: {name: {"compress": a, "explore": b, "conflict": conflict_index(a, b)} for name, (a, b) in masses.items()}
        for way, masses in ways.items()
    }


def conflict_index(a: float, b: float) -> float | None:
    """1 - |a + b| / (|a| + |b|); None where both are silent."""
    size = abs(a) + abs(b)
    return 1 - abs(a + b) / size if size else None


def _masses(samples: Sequence[Taught], *, entangled: bool) -> dict[str, tuple[float, float]]:
    """The advantages summed over occurrences; what occurs nowhere is left out."""
    sums: dict[str, np.ndarray] = {}
    for each in samples:
        pair = np.array(each.entangled if entangled else (each.compress, each.explore))
        for name, count in _occurrences(each.sample):
            sums[name] = sums.get(name, np.zeros(2)) + count * pair
    return {name: (float(sums[name][0]), float(sums[name][1])) for name in sorted(sums, key=_place)}


def _occurrences(sample: Sample) -> Iterator[tuple[str, int]]:
    found = Counter(connector.name for connector in connectors_in(sample.text))
    yield from found.items()
    yield from Counter(CONNECTORS[name][0] for name in found.elements()).items()
    yield EVERY_TOKEN, sample.length


def _place(name: str) -> int:
    """Connectors in the order of their list, then their kinds, then all tokens."""
    names = [*CONNECTORS, "step", "contrast", "recheck", EVERY_TOKEN]
    return names.index(name)
