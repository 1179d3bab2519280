"""The page of `egrc top`: what a run's folder and this machine's ranks say, in text that acts on no terminal."""

import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from egrc_mega.errors import RunError
from egrc_mega.launch import top as top_page
from egrc_mega.launch.top import MAX_ROWS, Page, top
from egrc_mega.lock import Holder, Lock
from egrc_mega.observe.events import EventLog
from egrc_mega.observe.pulse import PULSE
from egrc_mega.run_folder import LOCK
from egrc_mega.testing.made_runs import write_steps
from egrc_mega.testing.records import make_record


def server(number: int, state: str = "serving", rate: float | None = 1234.5) -> dict[str, Any]:
    found = {"number": number, "url": f"http://h:{number}", "state": state, "in_flight": 3, "waiting": number}
    return found | {"tokens_per_s": rate}


def write_live(run: Path, ranks: list[dict[str, Any]], servers: list[dict[str, Any]], moment: float = 1000.0) -> None:
    (run / "live.json").write_text(json.dumps({"time": moment, "ranks": ranks, "servers": servers}))


def shown(page: Page, width: int = 1000) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False).print(page.text())
    return screen.getvalue()


def test_a_page_shows_step_ranks_servers_queue_and_events(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4), 6, ends=False)
    with EventLog(tmp_path / "metrics.jsonl") as log:
        lost = "server 1 is fenced: \x1b[2Jhttp://h:1 is gone"
        log.write("step", **make_record(4, stage="explore", server_events=[lost], time_step_s=2.0, step_in_stage=1))
    here = asdict(Holder.this_process()) | {"page": PULSE.publish()}
    elsewhere, gone = here | {"host": "far", "pid": 7}, here | {"started": 1.0}
    write_live(tmp_path, [here, elsewhere, gone], [server(0), server(1, "lost", None)])
    lock = Lock.take(tmp_path / LOCK)
    assert lock is not None
    with PULSE.phase("update, step 5"), PULSE.awaiting("rank 1", None, ""):
        lines = Page(tmp_path, clock=lambda: 1001.0).lines()
    lock.release()
    assert lines[:2] == [f"{tmp_path}: running", "step 4/6, stage explore, its step 1, ETA 0:04"]
    assert "reward 0.4" in lines[2] and lines[3].startswith("seconds     step 2.00  rollout 0.50")
    assert lines[4].startswith("throughput  tokens_per_s 9,000  train_tokens_per_s 36,000")
    ranks = lines[lines.index("RANKS") + 1 :]
    assert ranks[0].startswith(
        f"     0  process {os.getpid()} on {here['host']}: update, step 5, awaits rank 1 for 0:0"
    )
    assert ranks[1] == "     1  process 7 on far, which cannot be seen from here" and ranks[2].endswith("is gone")
    servers = lines[lines.index("SERVERS  6 requests in flight, queue 1") + 1 :]
    assert servers[0] == "     0  serving       3 in flight      0 waiting    1,234 tok/s  http://h:0"
    assert servers[1] == "     1  lost          3 in flight      1 waiting        - tok/s  http://h:1"
    events = lines[lines.index("LAST EVENTS") + 1 :]
    assert events[0].endswith("  switch: all 3 steps are done")
    assert events[1].endswith("  server: server 1 is fenced: \\x1b[2Jhttp://h:1 is gone") and len(events) == 2


def test_many_ranks_and_servers_are_cut_and_an_old_state_is_said_to_be_old(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4), 6, ends=False)
    lock = Lock.take(tmp_path / LOCK)
    assert lock is not None
    write_live(tmp_path, [], [server(number) for number in range(MAX_ROWS + 5)])
    text = shown(Page(tmp_path, clock=lambda: 1090.0))
    (tmp_path / "live.json").write_text("torn {")
    torn = shown(Page(tmp_path))
    lock.release()
    assert "        and 5 more\n" in text and " (as of 1:30 ago)\n" in text
    assert "SERVERS  nothing is known" in torn


def test_a_run_that_is_over_is_one_page_and_needs_no_live_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_steps(tmp_path, range(1, 7), 6)
    top(tmp_path, once=False)  # no terminal: once
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}: finished\nstep 6/6, stage explore") and "ETA" not in said
    with pytest.raises(RunError, match="holds no run"):
        top(tmp_path / "nothing", once=True)


def test_on_a_terminal_the_page_ends_when_the_run_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_steps(tmp_path, range(1, 7), 6)
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("alarm", step=6, text="\x1b]0;mine\x07")
    lock = Lock.take(tmp_path / LOCK)
    assert lock is not None
    screen = io.StringIO()
    terminal = {"force_terminal": True, "file": screen, "width": 300}
    monkeypatch.setattr(top_page, "Console", lambda **how: Console(**how | terminal))
    monkeypatch.setattr(top_page.time, "sleep", lambda _seconds: lock.release())
    top(tmp_path, once=False)
    said = screen.getvalue()
    first, last = said.partition("\x1b[?1049l")[::2]  # the terminal's own screen comes back
    assert f"{tmp_path}: running" in first and last.lstrip("\x1b[?25h\n").startswith(f"{tmp_path}: finished")
    assert f"{tmp_path}: finished" in shown(Page(tmp_path), width=24).replace("\n", ""), "a long path hides no state"
    assert "\x1b]0;" not in said and "alarm: \\x1b]0;mine\\x07" in said
