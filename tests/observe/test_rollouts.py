"""Rollouts on disk: everything comes back, the disk is not filled, a resumed run's old future goes."""

import io
import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from rich.console import Console, RenderableType
from safetensors.numpy import load_file, save_file

from egrc_mega.errors import RunError, StorageError
from egrc_mega.observe import rollouts
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample, StoredStep
from egrc_mega.observe.rollout_view import group_view, step_view, steps_view
from egrc_mega.observe.rollouts import RolloutLog, StepFile, in_words, read_rollouts, step_path, stored_steps
from egrc_mega.testing.rollouts import make_stored_group, make_stored_sample
from egrc_mega.types import VersionSpan

BUDGET = 10**6


def write(run: Path, *steps: int, groups: tuple[StoredGroup, ...] = (), budget: int = BUDGET) -> None:
    with RolloutLog(run / "rollouts", budget) as log:
        for step in steps:
            log.write(step, "explore", groups or (make_stored_group(),))


def assert_same(stored: StoredSample, expected: StoredSample) -> None:
    for field in fields(StoredSample):
        found, value = getattr(stored, field.name), getattr(expected, field.name)
        if isinstance(value, np.ndarray):
            assert found.dtype == value.dtype, field.name
            np.testing.assert_array_equal(found, value, err_msg=field.name)
        else:
            assert found == value, field.name


def test_every_field_of_every_sample_comes_back(tmp_path: Path) -> None:
    samples = [
        make_stored_sample(4),
        make_stored_sample(0, text="", versions=(), advantage=-1.5),
        make_stored_sample(5, entropies=np.linspace(0, 2, 5, dtype=np.float32), tag="thinking"),
        make_stored_sample(3, advantage=np.array([0.1, -0.2, 0.3], np.float32), kept=False),
        make_stored_sample(2, reward=None, terms={}, grade="ungraded", well_formed=False, truncated=True),
        make_stored_sample(6, text="größer \N{PILE OF POO} \ud800", entropies=np.ones(6, np.float32)),
        # an edited response has as many advantages as it has tokens after the edit
        make_stored_sample(7, advantage=np.array([1.0, 2.0], np.float32)),
        make_stored_sample(2, advantage=np.array([3.0, 4.0], np.float32), token_ends=np.array([3, 9], np.int32)),
        make_stored_sample(2, prompt_ids=np.array([7, 8, 9], np.int32)),
        make_stored_sample(2, prompt_ids=np.array([], np.int32)),
        make_stored_sample(3, think_length=2, max_new_tokens=40, facts={"budget": 7.5}, reason="not asked"),
        make_stored_sample(2, reference_kl=np.array([0.5, -1.25], np.float32), token_ends=np.array([1, 4], np.int32)),
        make_stored_sample(
            3, versions=(VersionSpan(version="v2", start=0, end=1), VersionSpan(version="v3", start=1, end=3))
        ),
        make_stored_sample(2, versions=(VersionSpan(version="v2", start=0, end=2, pure=False),)),
        make_stored_sample(3, mask_counts=np.array([2, 0, 1], np.int32), mask_ids=np.array([7, 9, 4], np.int32)),
        make_stored_sample(2, mask_counts=np.zeros(2, np.int32), mask_ids=np.zeros(0, np.int32)),
        make_stored_sample(1, mask_counts=np.array([2], np.int32), mask_ids=np.array([1, 3], np.int32)),
    ]
    groups = (make_stored_group(*samples[:3], key="a:1"), make_stored_group(*samples[3:], key="a:2"))
    write(tmp_path, 7, groups=groups)
    stored = read_rollouts(tmp_path, 7)
    assert (stored.step, stored.stage) == (7, "explore")
    assert [(g.key, g.prompt, g.answer) for g in stored.groups] == [(g.key, g.prompt, g.answer) for g in groups]
    assert [len(group.samples) for group in stored.groups] == [3, 14]
    for found, expected in zip((s for g in stored.groups for s in g.samples), samples, strict=True):
        assert_same(found, expected)


def test_a_step_file_is_opened_once_and_gives_its_groups_one_by_one_even_when_the_run_removes_it(
    tmp_path: Path,
) -> None:
    groups = tuple(
        make_stored_group(
            make_stored_sample(3, text=f"{n} \N{PILE OF POO}", entropies=np.full(3, n, np.float32) if n % 2 else None),
            make_stored_sample(n + 1, text=f"{n} again", advantage=np.arange(n + 1, dtype=np.float32)),
        )
        for n in range(3)
    )
    write(tmp_path, 1, groups=groups)
    with StepFile(tmp_path, 1) as file:
        step_path(tmp_path / "rollouts", 1).unlink()
        for number in (2, 0, 1):
            for sample, expected in zip(file.group(number).samples, groups[number].samples, strict=True):
                assert_same(sample, expected)
    with pytest.raises(RunError, match="cannot be read"):
        StepFile(tmp_path, 1)


def test_what_the_method_knew_of_the_step_and_of_its_problems_comes_back(tmp_path: Path) -> None:
    group = replace(make_stored_group(), facts={"reference_accuracy": 0.5})
    with RolloutLog(tmp_path / "rollouts", BUDGET) as log:
        log.write(9, "second", [group], step_in_stage=2, state={"shortest": {"train.jsonl:7": 12}})
    stored = read_rollouts(tmp_path, 9)
    assert (stored.step_in_stage, stored.state) == (2, {"shortest": {"train.jsonl:7": 12}})
    assert stored.groups[0].facts == {"reference_accuracy": 0.5}


def test_a_file_of_an_earlier_version_lacks_what_has_come_since(tmp_path: Path) -> None:
    write(tmp_path, 1, groups=(make_stored_group(make_stored_sample(3, entropies=np.ones(3, np.float32))),))
    path = step_path(tmp_path / "rollouts", 1)
    arrays = load_file(path)
    index = orjson.loads(arrays["index"].tobytes())
    [group] = index["groups"]
    for entry, since in (
        (index, ("step_in_stage", "state", "collected")),
        (group, ("facts",)),
        (group["samples"][0], ("reason", "think_length", "max_new_tokens", "facts", "num_prompt_tokens")),
        (group["samples"][0], ("has_token_ends", "has_reference_kl")),
    ):
        for name in since:
            del entry[name]
    arrays |= {"index": np.frombuffer(orjson.dumps(index), np.uint8), "entropies": np.ones(3, np.float16)}
    since = ("token_ends", "reference_kl", "prompt_ids")
    save_file({name: array for name, array in arrays.items() if name not in since}, path)
    stored = read_rollouts(tmp_path, 1)
    assert (stored.step_in_stage, stored.state, stored.groups[0].facts) == (None, None, {})
    [sample] = stored.groups[0].samples
    assert_same(sample, make_stored_sample(3, entropies=np.ones(3, np.float16)))


def test_a_step_without_groups_comes_back_empty(tmp_path: Path) -> None:
    with RolloutLog(tmp_path / "rollouts", BUDGET) as log:
        log.write(1, "explore", ())
    assert read_rollouts(tmp_path, 1).groups == ()


def test_the_oldest_steps_go_when_the_budget_is_full_and_the_newest_always_stays(tmp_path: Path) -> None:
    write(tmp_path, 1)
    size = step_path(tmp_path / "rollouts", 1).stat().st_size
    write(tmp_path, *range(2, 7), budget=3 * size)
    assert stored_steps(tmp_path / "rollouts") == [4, 5, 6]
    write(tmp_path, 7, budget=1)
    assert stored_steps(tmp_path / "rollouts") == [7]


def test_with_a_budget_of_nothing_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, 1, budget=0)
    assert not (tmp_path / "rollouts").exists()


def test_a_resumed_run_overwrites_its_steps_and_loses_the_later_ones(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4)
    write(tmp_path, 2, groups=(make_stored_group(key="new:1"),))
    assert stored_steps(tmp_path / "rollouts") == [1, 2]
    assert read_rollouts(tmp_path, 2).groups[0].key == "new:1"


def test_a_step_that_is_written_again_is_a_new_file_under_the_old_name(tmp_path: Path) -> None:
    """Whoever has the old one open reads it to its end."""
    write(tmp_path, 1)
    path = step_path(tmp_path / "rollouts", 1)
    before = path.read_bytes()
    os.link(path, tmp_path / "held")
    write(tmp_path, 1, groups=(make_stored_group(key="new:1"),))
    assert (tmp_path / "held").read_bytes() == before != path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_no_torn_file_has_a_steps_name(tmp_path: Path) -> None:
    """Killed at any moment of the writing: every file with a name is whole."""
    script = (
        "import itertools, sys, pathlib\n"
        "from egrc_mega.observe.rollouts import RolloutLog\n"
        "from egrc_mega.testing.rollouts import *\n"
        "groups = [make_stored_group(*[make_stored_sample(100_000)] * 8)]\n"
        "with RolloutLog(pathlib.Path(sys.argv[1]), 10**9) as log:\n"
        "    for step in itertools.count(1):\n"
        "        log.write(step, 'explore', groups)\n"
        "        print(step, flush=True)\n"
    )
    folder = tmp_path / "rollouts"
    process = subprocess.Popen([sys.executable, "-P", "-c", script, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "4":
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(stored_steps(folder)) >= 3
    for step in stored_steps(folder):
        assert len(read_rollouts(tmp_path, step).groups[0].samples) == 8


def test_a_disk_that_fails_is_an_error_of_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rollouts, "save_file", fail)
    log = RolloutLog(tmp_path / "rollouts", BUDGET)
    log.write(1, "explore", (make_stored_group(),))
    with pytest.raises(StorageError, match=r"observe\.rollouts_gib: .*No space left on device.*set the field to 0"):
        log.write(2, "explore", (make_stored_group(),))


def test_steps_that_are_not_there_are_named_with_those_that_are(tmp_path: Path) -> None:
    for read in (lambda: read_rollouts(tmp_path, 1), lambda: steps_view(tmp_path)):
        with pytest.raises(RunError, match=r"holds no rollouts; give the folder of a run"):
            read()
    write(tmp_path, 1, 2, 3, 5)
    with pytest.raises(RunError, match=r"--step: .* holds no step 4; it holds 1-3, 5$"):
        read_rollouts(tmp_path, 4)
    step_path(tmp_path / "rollouts", 3).write_bytes(b"torn")
    with pytest.raises(RunError, match=r"step_000003\.safetensors cannot be read"):
        read_rollouts(tmp_path, 3)


@pytest.mark.parametrize(
    ("numbers", "words"), [([], ""), ([4], "4"), ([1, 2], "1-2"), ([1, 3, 4, 5, 9], "1, 3-5, 9"), ([7, 9], "7, 9")]
)
def test_numbers_are_told_as_ranges(numbers: list[int], words: str) -> None:
    assert in_words(numbers) == words


def shown(view: RenderableType) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160, highlight=False).print(view)
    assert "\x1b" not in stream.getvalue()
    return stream.getvalue()


@pytest.fixture
def stored() -> StoredStep:
    samples: list[Any] = [
        make_stored_sample(4, text="first [bold]x[/bold]\nsecond line", entropies=np.full(4, 0.5, np.float32)),
        make_stored_sample(9, grade="wrong", truncated=True, well_formed=False, kept=False, reward=None, terms={}),
        make_stored_sample(2, advantage=np.array([-1.0, 2.0], np.float32), tag="short"),
    ]
    group = make_stored_group(*samples)
    return StoredStep(step=7, stage="explore", groups=(make_stored_group(), group))


def test_a_group_is_shown_with_prompt_answer_texts_and_what_they_were_worth(stored: StoredStep) -> None:
    page = shown(group_view(stored, 1))
    for part in (
        "step 7 (explore), group 1: train.jsonl:7",
        "9 a + 1 = ?",
        "answer: 0",
        "first [bold]x[/bold]",
        "second line",
        "0 right · 4 tokens · reward 1.25 (answer 1 format 0.25) · advantage 0.5 · H 0.5 · v3",
        "1 wrong · 9 tokens (cut) · ill-formed · reward - · dropped · v3",
        "2 right · 2 tokens · short · reward 1.25 (answer 1 format 0.25) · advantage -1 to 2 · v3",
    ):
        assert part in page, part


def test_a_step_is_shown_with_a_line_a_group(stored: StoredStep) -> None:
    lines = shown(step_view(stored)).splitlines()
    assert "step 7 (explore)" in lines[0]
    row = next(line for line in lines if line.startswith("│ 1 "))
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["1", "train.jsonl:7", "0", "2/3", "1.25", "5.0", "2/3"]


@pytest.mark.parametrize("number", [-1, 2])
def test_a_group_that_is_not_there_is_an_error_that_says_which_are(stored: StoredStep, number: int) -> None:
    with pytest.raises(RunError, match=rf"--group: step 7 has no group {number}; it has 0 to 1"):
        group_view(stored, number)


def test_a_run_says_which_steps_it_has(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    assert "steps 1-3: 0.0 MB; show one with --step 3" in shown(steps_view(tmp_path))
