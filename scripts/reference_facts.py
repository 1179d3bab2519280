"""Writes what a run's responses say of each of its problems: the share of right ones, and their mean length.

    python scripts/reference_facts.py RUN PROBLEMS.jsonl OUT.jsonl

For methods that compare with the model before training (`data.facts`: reference_accuracy, reference_length). The run
must not have moved its weights: see configs/studies/miniature/reference.yaml. PROBLEMS is its `data.train`.
"""

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from egrc_mega.observe.rollouts import read_rollouts, require_steps


def facts(run_dir: Path, problems: Path) -> list[dict[str, Any]]:
    """The problems that the run has asked, in its order, with the facts of their graded responses."""
    lines = problems.read_text(encoding="utf-8").splitlines()
    rows: dict[str, dict[str, Any]] = {}
    for step in require_steps(run_dir):
        for group in read_rollouts(run_dir, step).groups:
            graded = [sample for sample in group.samples if sample.grade != "ungraded"]
            if graded and group.key not in rows:
                rows[group.key] = json.loads(lines[int(group.key.rpartition(":")[2]) - 1]) | {
                    "reference_accuracy": fmean(sample.grade == "right" for sample in graded),
                    "reference_length": fmean(len(sample.output_ids) for sample in graded),
                }
                assert rows[group.key]["answer"] == group.answer, f"{group.key} is another problem in {problems}"
    return list(rows.values())


if __name__ == "__main__":
    run, problem_file, out = map(Path, sys.argv[1:])
    out.write_text("".join(json.dumps(row) + "\n" for row in facts(run, problem_file)), encoding="utf-8")
