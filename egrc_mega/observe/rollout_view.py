"""Rollouts as a person reads them: the steps of a run, a step's groups, one group whole. Plain where no terminal is."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from egrc_mega.errors import RunError
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample, StoredStep
from egrc_mega.observe.rollouts import FOLDER, in_words, require_steps
from egrc_mega.plain_text import plain

COLOURS = {"right": "green", "wrong": "red", "ungraded": "yellow"}


def steps_view(run_dir: Path) -> RenderableType:
    """Which steps a run has stored.

    Raises:
        RunError: there is none.
    """
    numbers = require_steps(run_dir)
    size = sum(path.stat().st_size for path in (run_dir / FOLDER).glob("step_*")) / 1e6
    return Text(f"steps {in_words(numbers)}: {size:.1f} MB; show one with --step {numbers[-1]}")


def step_view(stored: StoredStep) -> RenderableType:
    """A line for each group of a step."""
    table = Table("group", "problem", "answer", "right", "reward", "length", "kept", title=_title(stored))
    for number, group in enumerate(stored.groups):
        samples = group.samples
        rewards = [sample.reward for sample in samples if sample.reward is not None]
        table.add_row(
            str(number),
            Text(plain(group.key)),
            Text(plain(group.answer)),
            f"{sum(sample.grade == 'right' for sample in samples)}/{len(samples)}",
            f"{fmean(rewards):.3g}" if rewards else "-",
            f"{fmean(len(sample.output_ids) for sample in samples):.1f}" if samples else "-",
            f"{sum(sample.kept for sample in samples)}/{len(samples)}",
        )
    return table


def group_view(stored: StoredStep, number: int) -> RenderableType:
    """One group with its texts.

    Raises:
        RunError: the step has no group of that number (counted from 0).
    """
    if not 0 <= number < len(stored.groups):
        raise RunError(f"--group: step {stored.step} has no group {number}; it has 0 to {len(stored.groups) - 1}")
    group = stored.groups[number]
    return Stack(Text(f"{_title(stored)}, group {number}: {plain(group.key)}", style="bold"), *_group_parts(group))


def _group_parts(group: StoredGroup) -> Iterator[RenderableType]:
    yield Panel(Text(plain(group.prompt)), title="prompt", title_align="left")
    yield Text(f"answer: {plain(group.answer)}")
    for number, sample in enumerate(group.samples):
        # above its text, since a panel's own title is cut at the width of the terminal
        yield _sample_title(number, sample)
        yield Panel(Text(plain(sample.text)))


def _sample_title(number: int, sample: StoredSample) -> Text:
    """What a sample is, was worth and taught."""
    title = Text(f"{number} ").append(sample.grade, style=COLOURS.get(sample.grade, ""))
    parts = [sample.reason] if sample.reason else []
    parts += [f"{len(sample.output_ids)} tokens{' (cut)' if sample.truncated else ''}"]
    parts += [] if sample.well_formed else ["ill-formed"]
    parts += [sample.tag] if sample.tag else []
    terms = " ".join(f"{name} {value:.3g}" for name, value in sample.terms.items())
    reward = "-" if sample.reward is None else f"{sample.reward:.3g}"
    parts.append(f"reward {reward}{f' ({terms})' if terms else ''}")
    parts.append(f"advantage {_advantage(sample)}" if sample.kept else "dropped")
    if sample.entropies is not None and len(sample.entropies):
        parts.append(f"H {np.mean(sample.entropies, dtype=np.float64):.3g}")
    parts.append("+".join(dict.fromkeys(span.version for span in sample.versions)))
    return title.append(" · ".join(["", *(part for part in parts if part)]))


def _advantage(sample: StoredSample) -> str:
    values = np.atleast_1d(sample.advantage)
    if not len(values):
        return "-"
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _title(stored: StoredStep) -> str:
    return f"step {stored.step} ({stored.stage})"
