"""The miniature's data files: evaluation problems, and training problems that are never among them."""

import json
import random
from functools import cache
from pathlib import Path

from egrc_mega.miniature.task import Problem, draw_problem

SEED = 12345
NUM_EVAL, NUM_TRAIN = 512, 4096


@cache
def eval_problems() -> tuple[Problem, ...]:
    """Distinct problems that no training, supervised or reinforced, may see."""
    rng = random.Random(SEED)
    problems: dict[Problem, None] = {}
    while len(problems) < NUM_EVAL:
        problems[draw_problem(rng)] = None
    return tuple(problems)


def draw_training_problem(rng: random.Random) -> Problem:
    """A problem that is not held out."""
    held_out = frozenset(eval_problems())
    while (problem := draw_problem(rng)) in held_out:
        pass
    return problem


def write_dataset(folder: Path) -> None:
    """Write `train.jsonl` and `eval.jsonl`, the same bytes every time."""
    rng = random.Random(SEED + 1)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"eval.jsonl": eval_problems(), "train.jsonl": [draw_training_problem(rng) for _ in range(NUM_TRAIN)]}
    for name, problems in files.items():
        rows = [json.dumps({"problem": p.text(), "answer": p.answer()}) for p in problems]
        (folder / name).write_text("\n".join(rows) + "\n")
