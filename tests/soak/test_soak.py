"""`egrc soak`: one round of real faults at a real run, and what the command says of a law that is broken."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egrc_mega.cli.main import app
from egrc_mega.soak import laws, soak
from egrc_mega.soak.round import Outcome
from egrc_mega.soak.schedule import plan
from egrc_mega.testing import forked

EGRC = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "soak"]


class MadeRound:
    """A round that ends at once; the second one of a soak breaks a law."""

    def __init__(self, seed: int, number: int, folder: Path) -> None:
        self.drawn, self.folder = plan(seed, number), folder / str(number)
        self.folder.mkdir()
        self.growth = soak.Growth()

    def run(self) -> Outcome:
        (self.folder / "console.log").touch()
        broken = str(laws.BrokenLaw(4, "step 6 is gone")) if self.drawn.number == 2 else ""
        times = dict.fromkeys(self.drawn.faults[1:], 1.0)
        return Outcome(self.drawn, times=times, num_sessions=2, num_restarts=1, broken=broken)


class MadeSite:
    """Stands for what the rounds share."""

    left = ""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder

    def __enter__(self) -> "MadeSite":
        return self

    def __exit__(self, *_error: object) -> None: ...

    def run_undisturbed(self) -> None: ...

    def look_at_servers(self, growth: soak.Growth) -> None: ...

    def round(self, number: int) -> MadeRound:
        return MadeRound(self.seed, number, self.folder)


def test_a_broken_law_ends_the_soak_with_its_round_kept_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak, "_Site", MadeSite)
    out = tmp_path / "soak"
    ended = CliRunner().invoke(app, ["soak", "--minutes", "1", "--seed", "7", "--out", str(out)])
    assert ended.exit_code == 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["holds"] is False and summary["broken"] == ["round 2: law 4 is broken: step 6 is gone"]
    assert (summary["seed"], summary["rounds"], summary["restarts"]) == (7, 2, 4)
    assert (summary["faults"], summary["faults_that_came_too_late"]) == (8, 2)
    assert (out / "2").exists() and not (out / "1").exists()
    assert [line.endswith("every law holds") for line in ended.output.splitlines()[1:3]] == [True, False]
    # the time is over: one round all the same
    again = CliRunner().invoke(app, ["soak", "--minutes", "0", "--round", "3", "--out", str(tmp_path / "again")])
    assert again.exit_code == 0 and '"rounds": 1' in again.output and "round 3: " in again.output


def test_what_the_servers_leave_behind_breaks_a_law_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "_Site", MadeSite)
    monkeypatch.setattr(MadeSite, "left", "law 2 is broken: x is left")
    summary = soak.soak(1, 0, tmp_path / "soak", lambda line: None)
    assert summary["broken"] == ["law 2 is broken: x is left"] and not summary["holds"]


def test_a_folder_that_is_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(soak.RunError, match=r"--out: .* is there already"):
        soak.soak(1, 1, tmp_path, lambda line: None)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_round_of_faults_leaves_every_law_intact(tmp_path: Path) -> None:
    drawn = plan(3, 2)
    ended = forked.run([*EGRC, "--minutes", "0", "--seed", "3", "--round", "2", "--out", str(tmp_path / "soak")], 800)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads((tmp_path / "soak/summary.json").read_text())
    assert summary["holds"] and summary["faults_by_kind"].keys() == {fault.kind for fault in drawn.faults}
    assert list((tmp_path / "soak").glob("round_*")) == []
