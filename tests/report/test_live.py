"""What a page that follows a run is told: what is new to it, once, read seldom, whatever becomes of the folder."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.errors import RunError
from egrc_mega.lock import Lock
from egrc_mega.report.curves import MAX_POINTS
from egrc_mega.report.live import REST, TEXTS_S, LiveRun
from egrc_mega.run_folder import LOCK
from egrc_mega.testing.made_runs import make_groups, write_evaluation, write_rollouts, write_steps

MAX_BYTES = 5 * 2**20
KEYS = ("light", "curves", "texts")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def live(tmp_path: Path, clock: Clock) -> LiveRun:
    write_steps(tmp_path, range(1, 4), 12, ends=False)
    write_rollouts(tmp_path, [1, 2, 3], make_groups(1, 2, "text"))
    return LiveRun(tmp_path, clock=clock)


def asked(live: LiveRun, seen: str = "") -> dict[str, Any]:
    return json.loads(live.reply(seen))


def test_a_page_gets_the_whole_first_and_then_nothing_until_something_changes(live: LiveRun) -> None:
    first = asked(live)
    assert first["light"]["progress"] == {"step": 3, "total": 12} and first["curves"]["steps"] == [1, 2, 3]
    assert first["texts"]["rollouts"]["num_rollouts"] == 6
    again = asked(live, first["seen"])
    assert [again[key] for key in KEYS] == [None, None, None] and again["seen"] == first["seen"]


def test_new_steps_come_as_their_rows_only_and_texts_after_their_time(live: LiveRun, clock: Clock) -> None:
    first = asked(live)
    write_steps(live.run_dir, range(4, 6), 12, ends=False)
    write_rollouts(live.run_dir, [4], make_groups(1, 2, "text"))
    second = asked(live, first["seen"])
    # the last row that the page has comes again: of a longer run it is the mean of more steps by now
    assert second["curves"]["begin"] == 2 and second["curves"]["steps"] == [3, 4, 5]
    assert second["light"]["progress"]["step"] == 5 and second["texts"] is None
    clock.now += TEXTS_S
    third = asked(live, second["seen"])
    assert [third["light"], third["curves"]] == [None, None]
    assert third["texts"]["rollouts"]["num_rollouts"] == 8
    # another page, which has only begun, gets all
    assert asked(live)["curves"]["steps"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("is_fresh", [False, True])
def test_rows_that_went_again_are_sent_anew(live: LiveRun, is_fresh: bool) -> None:
    first = asked(live)
    if is_fresh:  # another run in the same place, and longer already
        (live.run_dir / "metrics.jsonl").unlink()
        write_steps(live.run_dir, range(1, 8), 12, ends=False)
    else:  # resumed from an earlier checkpoint
        write_steps(live.run_dir, [2], 12, ends=False)
    curves = asked(live, first["seen"])["curves"]
    assert curves["begin"] == 0 and curves["steps"] == (list(range(1, 8)) if is_fresh else [1, 2])


def test_a_run_that_outgrows_its_points_is_thinned_anew(tmp_path: Path, clock: Clock) -> None:
    write_steps(tmp_path, range(1, MAX_POINTS + 1), 2 * MAX_POINTS, ends=False)
    live = LiveRun(tmp_path, clock=clock)
    first = asked(live)
    write_steps(tmp_path, [MAX_POINTS + 1, MAX_POINTS + 2], 2 * MAX_POINTS, ends=False)
    curves = asked(live, first["seen"])["curves"]
    assert (first["curves"]["stride"], curves["stride"], curves["begin"]) == (1, 2, 0)
    assert len(curves["steps"]) == MAX_POINTS // 2 + 1


@pytest.mark.parametrize("place", range(7))
def test_whatever_else_a_page_says_that_it_has_seen_it_gets_the_whole(live: LiveRun, place: int) -> None:
    seen = asked(live)["seen"]
    epoch, _, numbers = seen.partition(".")
    said = [
        "0" * len(epoch) + "." + numbers,
        f"{epoch}.{numbers}.1",
        f"{epoch}.\u0661.\u0661.\u0660.\u0661.\u0663",
        f"{epoch}.-1.1.0.1.3",
        f"{epoch}.{'9' * 5000}",
        "<script>",
        "null",
    ][place]
    found = asked(live, said)
    assert all(found[key] for key in KEYS) and found["curves"]["begin"] == 0


def test_rows_that_nobody_was_sent_are_not_left_out(live: LiveRun) -> None:
    epoch, light, texts, changes, stride, rows = asked(live)["seen"].split(".")
    found = asked(live, f"{epoch}.0.{texts}.{changes}.{stride}.{int(rows) + 50}")
    assert light == "1" and found["curves"]["begin"] == 0


def test_reading_takes_a_small_part_of_the_time_however_long_it_takes(
    live: LiveRun, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"light": 0, "heavy": 0}

    def slow(name: str, seconds: float) -> Any:
        def read() -> dict[str, Any]:
            counts[name] += 1
            clock.now += seconds
            return {}

        return read

    monkeypatch.setattr(live.view, "light", slow("light", 0.5))
    monkeypatch.setattr(live.view, "heavy", slow("heavy", 4.0))
    step = 3
    begun = clock.now
    while clock.now < begun + 600:
        step += 1
        write_steps(live.run_dir, [step], 2000, ends=False)
        write_rollouts(live.run_dir, [step], make_groups(1, 1, "text"))
        live.reply("")
        clock.now += 7
    assert 0.5 * counts["light"] + 4.0 * counts["heavy"] <= 2 * (clock.now - begun) / (REST + 1) + 4.5
    assert counts["light"] >= 30 and counts["heavy"] >= 5


def test_what_cannot_be_read_is_said_and_leaves_the_rest_as_it_was(live: LiveRun) -> None:
    first = asked(live)
    write_evaluation(live.run_dir, ("base", 0, 0), 0.5, 10.0)
    (live.run_dir / "evaluation.json").write_text("{torn")
    torn = asked(live, first["seen"])
    assert "evaluation.json" in torn["trouble"] and torn["light"] is None
    (live.run_dir / "evaluation.json").unlink()
    write_evaluation(live.run_dir, ("base", 0, 0), 0.5, 10.0)
    write_steps(live.run_dir, [4], 12, ends=False)
    mended = asked(live, torn["seen"])
    assert mended["trouble"] is None and len(mended["light"]["evaluation"]) == 2
    assert mended["curves"]["steps"] == [3, 4]


def test_it_says_whether_the_run_goes_on_and_whether_the_folder_is_there(live: LiveRun) -> None:
    assert not asked(live)["is_running"]
    lock = Lock.take(live.run_dir / LOCK)
    assert lock
    assert asked(live)["is_running"]
    lock.release()
    seen = asked(live)["seen"]
    live.run_dir.rename(live.run_dir.with_name("aside"))
    found = asked(live, seen)
    # what was shown stays
    assert found["is_gone"] and not found["is_running"] and [found[key] for key in KEYS] == [None, None, None]


def test_two_hundred_steps_of_128_rollouts_are_little_and_a_step_more_is_less(large: Path, clock: Clock) -> None:
    live = LiveRun(large, clock=clock)
    whole = live.reply("")
    assert len(whole) < MAX_BYTES
    os.utime(large / "metrics.jsonl")
    more = live.reply(json.loads(whole)["seen"])
    assert json.loads(more)["light"] and len(more) < 40_000


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no"):
        LiveRun(tmp_path)
