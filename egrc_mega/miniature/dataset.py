"""The miniature's data files: evaluation problems, and training problems that are never among them."""

import json
import random
from functools import cache
from pathlib import Path

from egrc_mega.miniature.task import Problem, draw_problem

SEED = 12345
"""Fixed, because the base model's own training leaves out the evaluation problems that it draws."""
NUM_EVAL, NUM_TRAIN = 512, 4096


@cache
def eval_problems() -> tuple[Problem, ...]:
    """Distinct problems that no training, supervised or reinforced, may see; in the order of `eval.jsonl`."""
    rng = random.Random(SEED)
    problems: dict[Problem, None] = {}
    while len(problems) < NUM_EVAL:
        problems[draw_problem(rng)] = None
    return tuple(problems)


@cache
def _held_out() -> frozenset[Problem]:
    return frozenset(eval_problems())


def draw_training_problem(rng: random.Random) -> Problem:
    """A problem that is not held out. Short ones come again and again: there are few of them."""
    while (problem := draw_problem(rng)) in _held_out():
        pass
    return problem


def write_dataset(folder: Path) -> None:
    """Write `train.jsonl` and `eval.jsonl`, rows of `problem` and `answer`; the same bytes every time."""
    rng = random.Random(SEED + 1)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"eval.jsonl": eval_problems(), "train.jsonl": [draw_training_problem(rng) for _ in range(NUM_TRAIN)]}
    for name, problems in files.items():
        rows = [json.dumps({"problem": p.text(), "answer": p.answer()}) for p in problems]
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
