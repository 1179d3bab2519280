"""Which files of responses are understood: the layouts of JSON rows, and this software's own rollout files."""

from collections.abc import Iterator
from pathlib import Path

from egrc_mega.errors import DataError, RunError
from egrc_mega.evaluation.foreign_layouts import FOREIGN
from egrc_mega.evaluation.responses import (
    Row,
    RowLayout,
    SampledResponse,
    count_in,
    gold_in,
    id_of_text,
    of_rows,
    text_in,
    verdict_in,
)
from egrc_mega.observe.rollouts import FOLDER, read_rollouts, require_steps
from egrc_mega.types import Grade


def _shorterbetter(row: Row, place: str) -> Iterator[SampledResponse]:
    """One response a row. It begins within the think part, and responses were cut at a cap that no field states."""
    prompt = text_in(row, "problem")
    yield SampledResponse(
        place=place,
        problem_id=id_of_text(prompt),
        prompt=prompt,
        text=text_in(row, "completion"),
        gold=gold_in(row, "target_answer"),
        verdict=verdict_in(row, "pass_or_fail"),
        length=count_in(row, "output_length"),
        prompt_thinks=True,
    )


SHORTERBETTER = RowLayout("ShorterBetter", frozenset({"problem", "completion", "pass_or_fail"}), _shorterbetter)
"""JingyangYi/ShorterBetter, eval_data/outputs/sample."""

ROW_LAYOUTS: tuple[RowLayout, ...] = (SHORTERBETTER, *FOREIGN)
"""In the order in which they are tried: those that ask for more fields stand first."""


def sampled_responses(path: Path) -> Iterator[SampledResponse]:
    """The responses of a file of any known layout, of a rollout file, or of all rollout files of a run's folder.

    Raises:
        DataError: the file cannot be read or is of no known layout; it names the row, the field and the remedy.
        RunError: a rollout file cannot be read.
    """
    if path.is_dir():
        for step in require_steps(path):
            yield from of_rollouts(path, step)
    elif path.suffix == ".safetensors":
        yield from of_rollout_file(path)
    else:
        yield from of_rows(path, ROW_LAYOUTS)


def of_rollout_file(path: Path) -> Iterator[SampledResponse]:
    """The responses of one step: a run's `rollouts/step_000001.safetensors`.

    Raises:
        DataError: the file is no such file by its name.
        RunError: it cannot be read.
    """
    number = path.stem.removeprefix("step_")
    if path.parent.name != FOLDER or not number.isdecimal():
        raise DataError(f"{path} is no rollout file of a run (RUN/{FOLDER}/step_000001.safetensors); give one")
    if not path.is_file():
        raise RunError(f"{path} does not exist; give a rollout file of a run")
    yield from of_rollouts(path.parent.parent, int(number))


def of_rollouts(run: Path, step: int) -> Iterator[SampledResponse]:
    """The responses of one step (counted from 1) of a run's folder, group by group."""
    stored = read_rollouts(run, step)
    for number, group in enumerate(stored.groups):
        for index, sample in enumerate(group.samples):
            yield SampledResponse(
                place=f"{run}, step {step}, group {number}, sample {index}",
                problem_id=group.key,
                prompt=group.prompt,
                text=sample.text,
                gold=group.answer,
                verdict=Grade(sample.grade),
                reason=sample.reason,
                length=len(sample.output_ids),
                truncated=sample.truncated,
                output_ids=sample.output_ids,
                sampled=sample.sampled,
            )
