"""Counts connecting words in responses: those that go on (Then, So) and those that look back (Wait, Hmm)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from egrc_mega.observe.rollouts import FOLDER, read_rollouts, stored_steps

PREFIX = "connectors_"


def counter(words: Sequence[str]) -> "re.Pattern[str]":
    """Finds whole words, whatever their case."""
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)


def connector_curves(
    run_dir: Path, steps: Sequence[int], groups: Mapping[str, Sequence[str]]
) -> dict[str, list[float | None]]:
    """For each group of words, words per response at each step; None where the run has kept no responses."""
    patterns = {f"{PREFIX}{name}": counter(words) for name, words in groups.items() if words}
    stored = set(stored_steps(run_dir / FOLDER))
    curves: dict[str, list[float | None]] = {name: [] for name in patterns}
    for step in steps:
        texts = [s.text for g in read_rollouts(run_dir, step).groups for s in g.samples] if step in stored else []
        for name, pattern in patterns.items():
            curves[name].append(fmean(len(pattern.findall(text)) for text in texts) if texts else None)
    return curves
