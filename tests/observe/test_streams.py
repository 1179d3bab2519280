"""A run goes on when nobody reads what it prints."""

import io
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from rich.console import Console

from egrc_mega.observe.streams import Bearing, bear_lost_streams, show_text_plain
from egrc_mega.testing.forked import popen
from egrc_mega.testing.forked import run as forked_run
from egrc_mega.testing.runs import SMALL_RUN, events


def test_what_can_be_written_is_written() -> None:
    stream = io.StringIO()
    bearing = Bearing(stream)
    assert bearing.write("a line\n") == 7
    bearing.flush()
    assert stream.getvalue() == "a line\n" and not bearing.isatty()


ACTS = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"


def test_nothing_that_is_printed_logged_or_raised_acts_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, error = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", error)
    show_text_plain()
    show_text_plain()
    bear_lost_streams()
    print(ACTS, ["x"], flush=True)
    sys.stdout.writelines([ACTS])
    logging.StreamHandler().emit(logging.LogRecord("x", logging.WARNING, "", 0, ACTS, None, None))
    traceback.print_exception(ValueError(ACTS))
    assert "\\x1b[2J" in out.getvalue() and error.getvalue().count("\\x1b[2J") == 2
    assert (out.getvalue() + error.getvalue()).replace("\n", "").isprintable()
    Console(file=sys.stdout, force_terminal=True).print("red", style="red")
    assert "\x1b[31mred" in out.getvalue()  # what we do on purpose


def test_a_command_shows_the_name_of_a_hostile_folder_plain(tmp_path: Path) -> None:
    folder = tmp_path / ACTS
    folder.mkdir()
    ended = forked_run([sys.executable, "-P", "-m", "egrc_mega.cli.main", "diagnose", str(folder)])
    assert ended.returncode == 7 and "\\x1b[2J" in ended.stderr
    assert (ended.stdout + ended.stderr).replace("\n", "").isprintable()


@pytest.mark.parametrize("place", ["a closed pipe", "a full disk"])
def test_a_process_whose_output_goes_nowhere_ends_well(place: str) -> None:
    program = (
        "import sys\nfrom egrc_mega.observe.streams import bear_lost_streams\nbear_lost_streams()\n"
        "for number in range(5000):\n    print('x' * 100, flush=number % 2 == 0)\n"
        "print('done', file=sys.stderr)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    output = writer if place == "a closed pipe" else os.open("/dev/full", os.O_WRONLY)
    ended = subprocess.run(
        [sys.executable, "-P", "-c", program], stdout=output, stderr=subprocess.PIPE, timeout=120, check=False
    )
    os.close(output)
    assert (ended.returncode, ended.stderr) == (0, b"done\n")


@pytest.mark.timeout(300)
def test_a_run_whose_reader_goes_away_and_whose_log_finds_no_room_runs_to_its_end(root: Path, tmp_path: Path) -> None:
    stage = '[{"method":"compress","steps":2,"clip_len":72,"rollout":{"n":4,"max_new_tokens":60}}]'
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "-c", str(root / "configs/quickstart.yaml")]
    for override in (*SMALL_RUN, f"stages={stage}", f"run.dir={tmp_path / 'run'}"):
        command += ["--set", override]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.log").symlink_to("/dev/full")
    run = popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.stdout is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(timeout=240) == 0
    assert [step["step"] for step in events(tmp_path / "run", "step")] == [1, 2]
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()
