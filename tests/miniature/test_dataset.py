"""The shipped data files are the generator's, and training never sees what is evaluated."""

import json
import random
from importlib.resources import files
from pathlib import Path

from egrc_mega.data.reader import read_problems
from egrc_mega.miniature.dataset import draw_training_problem, eval_problems, write_dataset
from egrc_mega.miniature.task import MAX_OPERATIONS, MIN_OPERATIONS
from egrc_mega.sections.data import DataSection

ASSETS = Path(str(files("egrc_mega.miniature") / "assets"))


def test_the_shipped_files_are_regenerated_byte_for_byte(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    for name in ("train.jsonl", "eval.jsonl"):
        assert (tmp_path / name).read_bytes() == (ASSETS / name).read_bytes()


def test_no_training_problem_is_among_the_512_distinct_evaluation_problems() -> None:
    rows = {
        name: [json.loads(line) for line in (ASSETS / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "eval")
    }
    held_out = {row["problem"] for row in rows["eval"]}
    assert len(rows["eval"]) == len(held_out) == 512 and len(rows["train"]) == 4096
    assert [row["problem"] for row in rows["eval"]] == [problem.text() for problem in eval_problems()]
    assert held_out.isdisjoint(row["problem"] for row in rows["train"])
    rng = random.Random(0)
    assert held_out.isdisjoint(draw_training_problem(rng).text() for _ in range(5000)), "the base model's problems"


def test_every_shipped_answer_is_its_problems_value() -> None:
    for name in ("train.jsonl", "eval.jsonl"):
        for line in (ASSETS / name).read_text().splitlines():
            row = json.loads(line)
            start, *rest = row["problem"].removesuffix(" = ?").split()
            terms = [int(operator + operand) for operator, operand in zip(rest[1::3], rest[2::3], strict=True)]
            assert MIN_OPERATIONS <= len(terms) <= MAX_OPERATIONS
            assert row["answer"] == str((int(start) + sum(terms)) % 10)


def test_the_shipped_files_pass_the_reader_without_quarantine(tmp_path: Path) -> None:
    strict = DataSection(train=ASSETS / "train.jsonl", max_quarantined_share=0.0)
    assert len(read_problems(ASSETS / "train.jsonl", strict, tmp_path / "q")) == 4096
    assert len(read_problems(ASSETS / "eval.jsonl", strict, tmp_path / "q")) == 512
    assert not (tmp_path / "q").exists()
