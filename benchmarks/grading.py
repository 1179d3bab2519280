"""Grading throughput: CPU seconds of 10,000 answers, and the same verdicts on an idle and on a busy machine.

    python benchmarks/grading.py [--answers 10000] [--busy 6] [--out FILE]

Prints JSON with `holds`: 10,000 answers (60 % integers, 20 % equal text, 20 % LaTeX that is not equal in its spelling)
take at most 10 s of CPU in all, the children's memory stays flat, hostile answers included, and 2,000 verdicts are
identical with busy processes beside.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
from pathlib import Path

import psutil

from egrc_mega.grading.pool import GraderPool, Pair
from egrc_mega.grading.worker import Budget
from egrc_mega.types import NO_HINTS, Verdict

MAX_CPU_S = 10.0
"""Of 10,000 answers, start of the processes left out."""
MAX_GROWTH_BYTES = 16 * 2**20
GOLDS = (
    "2\\sqrt{3}", "\\frac{\\sqrt{2}}{2}", "x^2+2x+1", "\\frac{n(n+1)}{2}", "[2,\\infty)", "(1,\\sqrt{2})",
    "\\frac{e^{at}-e^{-at}}{2a}",
    "1 \\pm \\sqrt{19}", "2\\pi", "\\binom{2n}{n}", "y=2x+3", "x^2+y^2=4", "\\begin{pmatrix}\\sqrt2\\\\1\\end{pmatrix}",
    "\\ln 2", "-\\tau \\ln \\Delta", "\\frac{2}{1005}",
)  # fmt: skip
ANSWERS = (
    "\\sqrt{12}", "\\frac{1}{\\sqrt{2}}", "(x+1)^2", "\\frac{n^2+n}{2}", "x \\geq 2", "(1, 2^{1/2})",
    "\\frac{\\sinh(at)}{a}",
    "1+\\sqrt{19}, 1-\\sqrt{19}", "\\frac{4\\pi}{2}", "\\frac{(2n)!}{n!^2}", "2x-y+3=0", "4-x^2=y^2",
    "\\begin{pmatrix}\\frac{2}{\\sqrt2}\\\\1\\end{pmatrix}", "\\log_e 2", "\\tau\\ln(1/\\Delta)",
    "\\frac{2\\sqrt{4}}{2010}",
)  # fmt: skip
HOSTILE = (
    "9^{9^{9^9}}",
    "(10^7)!",
    "\\sum_{k=1}^{10^9} k^k",
    "\\binom{10^9}{5\\cdot 10^8}",
    "(" * 400 + "4" + ")" * 400,
)


def pairs_of(count: int, seed: int) -> list[Pair]:
    """Answers of the mix: 60 % integers, 20 % equal text, 20 % LaTeX, of which one in a hundred is hostile."""
    rng = random.Random(seed)
    pairs: list[Pair] = []
    for _ in range(count):
        kind, gold = rng.random(), rng.choice(GOLDS)
        if kind < 0.6:
            pairs.append((str(rng.randrange(1000)), str(rng.randrange(1000)), NO_HINTS))
        elif kind < 0.8:
            pairs.append((gold, gold, NO_HINTS))
        elif kind < 0.802:
            pairs.append((rng.choice(HOSTILE), gold, NO_HINTS))
        else:
            # half of them are right, the others answer something else
            right = ANSWERS[GOLDS.index(gold)]
            factor = rng.randrange(2, 999)
            pairs.append((right if kind < 0.9 else f"{factor}({right})", gold, NO_HINTS))
    return pairs


def cpu_s(pool: GraderPool) -> float:
    """CPU seconds of this process, of living children and of those that have ended."""
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    living = [psutil.Process(worker.process.pid).cpu_times() for worker in pool._workers if not worker.is_killed]
    return sum(u.ru_utime + u.ru_stime for u in own) + sum(t.user + t.system for t in living)


def memory_bytes(pool: GraderPool) -> int:
    """Resident memory of the largest child."""
    return max(psutil.Process(worker.process.pid).memory_info().rss for worker in pool._workers)


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


def measure_throughput(pool: GraderPool, count: int) -> dict[str, float]:
    """CPU seconds and the growth of memory over the answers."""
    pool.grade(pairs_of(500, seed=1))
    before, memory = cpu_s(pool), memory_bytes(pool)
    for start in range(0, count, 1000):
        pool.grade(pairs_of(min(1000, count - start), seed=2 + start))
    return {"answers": count, "cpu_s": cpu_s(pool) - before, "growth_bytes": memory_bytes(pool) - memory}


def measure_load(pool: GraderPool, num_busy: int) -> dict[str, float]:
    """How many of 2,000 verdicts differ with busy processes beside."""
    pairs = pairs_of(2000, seed=99)
    idle: list[Verdict] = pool.grade(pairs)
    busy = [multiprocessing.get_context("fork").Process(target=spin, daemon=True) for _ in range(num_busy)]
    for process in busy:
        process.start()
    try:
        loaded = pool.grade(pairs)
    finally:
        for process in busy:
            process.kill()
            process.join()
    differing = sum(first != second for first, second in zip(idle, loaded, strict=True))
    ungraded = sum(verdict.grade == "ungraded" for verdict in (*idle, *loaded))
    return {"verdicts": len(pairs), "busy": num_busy, "differing": differing, "ungraded": ungraded}


def main() -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--busy", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with GraderPool(2, Budget(cpu_s=0.4, timeout_s=600.0)) as pool:
        throughput = measure_throughput(pool, options.answers)
        load = measure_load(pool, options.busy)
    allowed_s = MAX_CPU_S * options.answers / 10_000
    holds = {
        "cpu": throughput["cpu_s"] <= allowed_s,
        "memory": throughput["growth_bytes"] <= MAX_GROWTH_BYTES,
        "load": load["differing"] == load["ungraded"] == 0,
    }
    result = {"holds": holds, "throughput": throughput, "load": load, "cores": os.cpu_count()}
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
