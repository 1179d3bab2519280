"""Planning micro-batches of a heavy-tailed batch: time, number, and how even the ranks' work is, against two peers.

2048 responses, log-normal with sigma 0.8 and mean 1100 capped at 4096 tokens, budget 16384, 8 data-parallel ranks,
R1-Distill-Qwen-7B's operations. Peers: samples dealt in turn; longest first to the rank with the fewest tokens.

Usage: python benchmarks/packing.py [--rounds 9]
"""

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Callable
from statistics import median

from egrc_mega.convert.families.registry import architecture_of
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.convert.presets import PRESETS
from egrc_mega.policy.balance import plan_loads
from egrc_mega.policy.flops import FlopModel

BUDGET, RANKS, COUNT = 16384, 8, 2048
FLOPS = FlopModel.of(architecture_of(HfConfig(dict(PRESETS["deepseek-r1-distill-qwen-7b"]))))

Plan = Callable[[list[int], list[float]], list[list[int]]]


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rows = {name: _measure(plan, arguments.rounds) for name, plan in PLANS.items()}
    print(json.dumps({**rows, "python": platform.python_version(), "machine": platform.machine()}, indent=1))


def _measure(plan: Plan, rounds: int) -> dict[str, float]:
    times, imbalances = [], []
    for seed in range(rounds):
        lengths = _lengths(seed)
        costs = [float(FLOPS.forward([length], length)) for length in lengths]
        started = time.monotonic()
        ranks = plan(lengths, costs)
        times.append(time.monotonic() - started)
        work = [sum(costs[i] for i in rank) for rank in ranks]
        imbalances.append(max(work) / min(work) - 1)
    return {"seconds_median": median(times), "imbalance_median": median(imbalances), "imbalance_worst": max(imbalances)}


def _lengths(seed: int) -> list[int]:
    rng = random.Random(seed)
    mu = math.log(1100) - 0.8**2 / 2
    return [min(4096, max(1, round(rng.lognormvariate(mu, 0.8)))) for _ in range(COUNT)]


def _ours(lengths: list[int], costs: list[float]) -> list[list[int]]:
    return [[i for load in loads for i in load.indices] for loads in plan_loads(lengths, costs, BUDGET, RANKS)]


def _in_turn(lengths: list[int], _costs: list[float]) -> list[list[int]]:
    return [list(range(rank, len(lengths), RANKS)) for rank in range(RANKS)]


def _longest_first(lengths: list[int], _costs: list[float]) -> list[list[int]]:
    ranks: list[list[int]] = [[] for _ in range(RANKS)]
    loads = [0] * RANKS
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = loads.index(min(loads))
        ranks[emptiest].append(i)
        loads[emptiest] += lengths[i]
    return ranks


PLANS: dict[str, Plan] = {"karmarkar_karp": _ours, "in_turn": _in_turn, "longest_first_by_tokens": _longest_first}

if __name__ == "__main__":
    main()
