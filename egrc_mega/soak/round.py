"""One round of a soak: a supervised run, what befalls it, and the laws after each of its ends."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from egrc_mega.checkpoint.pointers import LATEST, pointed
from egrc_mega.checkpoint.retention import steps
from egrc_mega.errors import Stopped
from egrc_mega.faults import ONCE, VARIABLE
from egrc_mega.lock import local_holder
from egrc_mega.manifest import MANIFEST
from egrc_mega.observe.events import read_events
from egrc_mega.run_folder import LOCK
from egrc_mega.soak import laws
from egrc_mega.soak.causes import causes_to_be_named
from egrc_mega.soak.link import Link, Strike
from egrc_mega.soak.processes import SHARED_MEMORY, Growth, running, server, working_in
from egrc_mega.soak.schedule import NUM_SERVERS, Fault, Plan
from egrc_mega.soak.setting import start, train_command

POLL_S = 0.1
PAUSE_S = 1.5
"""Well below every limit: a pause is no hang."""
SESSION_LIMIT_S = 600.0
"""Law 1: of one life of the supervisor. A hang, a silent server and a few starts have room in it on a busy machine."""
NUM_CUT = 6
"""Requests that lose their connection besides those under way."""
SUPERVISOR_ENDS = ("kill supervisor", "flip byte")
AGENT, COMMAND = ("egrc_mega.launch.agent", "pt_elastic"), ("egrc_mega.cli.main", "cli.main")
"""What runs, and what it calls itself; torchrun gives itself a name."""


@dataclass
class Outcome:
    """What has become of a round."""

    plan: Plan
    times: dict[Fault, float] = field(default_factory=dict)
    """When each fault has struck, in seconds since 1970, as in the run's events."""
    num_sessions: int = 0
    """Lives of the supervisor."""
    num_restarts: int = 0
    """Attempts that its supervisors have started again."""
    seconds: float = 0.0
    broken: str = ""
    """The law that does not hold, if one does not."""

    @property
    def struck(self) -> list[Fault]:
        """The other faults came too late: the run had ended, or had nothing there to be struck."""
        return list(self.times)


class Round:
    """Runs one plan and holds the laws against it.

    Args:
        folder: of the round, and of all its processes; empty.
        undisturbed: the run with whose weights it must end.
        home: the folder of `egrc serve`, whose log speaks of its servers; None: they are the run's own.
        links: to those servers, in order.
    """

    def __init__(
        self, plan: Plan, folder: Path, config: Path, undisturbed: Path, home: Path | None, links: Sequence[Link]
    ) -> None:
        self.plan, self.folder, self.config, self.undisturbed = plan, folder, config, undisturbed
        self.home, self.links = home, links
        self.outcome, self.growth = Outcome(plan), Growth()
        self.run_dir, self.scratch, self.marks = (folder / name for name in ("run", "tmp", "marks"))
        self._coming = [fault for fault in plan.faults if not fault.point]
        """What comes from outside and has not struck yet."""
        self._strikes: list[tuple[Fault, Strike]] = []
        self._paused: list[tuple[float, psutil.Process]] = []
        """When they go on."""
        self._stopped: set[int] = set()
        """Numbers of those that never do."""
        self._damaged: dict[Path, int] = {}
        """Steps that we have spoiled, and the number of the folder on its disk: a step may be written anew."""
        self._committed = 0
        self._seen = 0
        """The highest step that is recorded."""
        self._ended_at = 0.0
        """When the fault was thrown that has ended the last life of the supervisor."""
        self._said_before = len(self._said_of_servers())

    def run(self) -> Outcome:
        """Until the run is done, or a law is broken."""
        started = time.monotonic()
        self.marks.mkdir(parents=True)
        try:
            while self._session() != 0:
                pass
            laws.require_same_weights(self.run_dir, self.undisturbed)
            self._note_struck()
            begun = [event["time"] for event in self._events() if event.get("kind") in ("run", "resume")]
            causes = causes_to_be_named(self.outcome.times, begun, goes_on=self.plan.goes_on)
            laws.require_cause(0, self._said(), causes=causes)
            if excess := self.growth.excess():
                raise laws.BrokenLaw(2, "; ".join(excess))
        except laws.BrokenLaw as broken:
            self.outcome.broken = str(broken)
            self._note_struck()
            with suppress(laws.BrokenLaw):
                laws.require_no_process(working_in(self.folder), 0)
        for link in self.links:
            link.mend()
        self.outcome.seconds = time.monotonic() - started
        self.outcome.num_restarts = sum(event.get("kind") == "restart" for event in self._events())
        return self.outcome

    def _session(self) -> int:
        """One life of the supervisor, and the laws at its end; the exit code."""
        self.outcome.num_sessions += 1
        before = laws.listing([SHARED_MEMORY])
        command = train_command(self.config, self.run_dir, self.plan, [link.url for link in self.links])
        faults = {VARIABLE: ",".join(fault.entry for fault in self.plan.faults if fault.point), ONCE: str(self.marks)}
        supervisor = start(command, self.folder, self.folder / "console.log", faults)
        ended_by = self._disturb(supervisor)
        laws.require_end(supervisor, SESSION_LIMIT_S if ended_by else 0.0)
        laws.require_no_process(working_in(self.folder))
        self._see_to_files(before, was_killed=ended_by is not None and ended_by.kind in SUPERVISOR_ENDS)
        code, expected = supervisor.returncode, self._expected(ended_by, supervisor.returncode)
        laws.require_cause(code, self._said(), expected=expected)
        self._see_to_steps()
        if ended_by and ended_by.kind == "flip byte":
            self._flip(ended_by)
        elif ended_by and code != 0:
            self.outcome.times[ended_by] = self._ended_at
        return code

    def _disturb(self, supervisor: "subprocess.Popen[bytes]") -> Fault | None:
        """Throw what is due until the supervisor has ended, or a fault has been thrown that ends it: that fault.

        It returns, too, when the time is over in which a session must end.
        """
        deadline = time.monotonic() + SESSION_LIMIT_S
        while supervisor.poll() is None and time.monotonic() < deadline:
            self._look()
            self._resume_paused()
            for fault in [fault for fault in self._coming if fault.step <= self._seen + 1]:
                if self._throw(fault, supervisor):
                    self._coming.remove(fault)
                    if fault.kind in (*SUPERVISOR_ENDS, "terminate"):
                        self._ended_at = time.time()
                        return fault
            time.sleep(POLL_S)
        return None

    def _look(self) -> None:
        """At the steps; after each new one also at what rank 0 and its own servers use."""
        seen = max((event["step"] for event in self._events() if event.get("kind") == "step"), default=0)
        if seen <= self._seen:
            return
        self._seen = seen
        rank_0 = local_holder(self.run_dir / LOCK)
        with suppress(psutil.Error):
            if rank_0 is not None:
                self.growth.look("rank 0", psutil.Process(rank_0))
        for number in () if self.home else range(NUM_SERVERS):
            if (process := server(self.folder, number)) is not None:
                self.growth.look("server of the run", process)

    def _throw(self, fault: Fault, supervisor: "subprocess.Popen[bytes]") -> bool:
        """False where there is nothing to be struck now."""
        if fault.kind in SUPERVISOR_ENDS:
            supervisor.kill()
            return True
        if fault.kind == "terminate":
            supervisor.terminate()
            return True
        if fault.kind in ("garbage", "lost links"):
            link = self.links[fault.target]
            strike = link.spoil(fault.detail) if fault.kind == "garbage" else link.cut(NUM_CUT)
            self._strikes.append((fault, strike))
            return True
        target = self._target(fault, supervisor.pid)
        is_struck = target is not None and self._strike(fault, target)
        if is_struck:
            self.outcome.times[fault] = time.time()
        return is_struck

    def _target(self, fault: Fault, supervisor: int) -> psutil.Process | None:
        if fault.kind.endswith("server"):
            return server(self.home or self.folder, fault.target)
        return running(self.folder, *(AGENT if fault.kind == "kill launcher" else COMMAND), without=supervisor)

    def _strike(self, fault: Fault, target: psutil.Process) -> bool:
        is_kill = fault.kind.startswith("kill")
        try:
            target.send_signal(signal.SIGKILL if is_kill else signal.SIGSTOP)
        except psutil.Error:
            return False
        if fault.kind.startswith("pause"):
            self._paused.append((time.monotonic() + PAUSE_S, target))
        elif not is_kill:
            self._stopped.add(target.pid)
        return True

    def _resume_paused(self) -> None:
        """Ranks that have paused at a point of theirs are found by their marks."""
        for fault in self.plan.faults:
            if fault.kind == "pause rank" and fault not in self.outcome.times and (pid := self._mark(fault)):
                self.outcome.times[fault] = time.time()
                with suppress(psutil.Error):
                    self._paused.append((time.monotonic() + PAUSE_S, psutil.Process(pid)))
        now = time.monotonic()
        for _until, process in (due for due in self._paused if due[0] <= now):
            with suppress(psutil.Error):
                if process.pid not in self._stopped:
                    process.resume()
        self._paused = [each for each in self._paused if each[0] > now]

    def _mark(self, fault: Fault) -> int:
        """Number of the process that an armed fault has struck; 0: none."""
        with suppress(OSError, ValueError):
            return int((self.marks / fault.entry).read_text())
        return 0

    def _note_struck(self) -> None:
        """Add the faults whose strikes are seen afterwards."""
        marks = {fault: self.marks / fault.entry for fault in self.plan.faults if fault.point}
        times = {fault: mark.stat().st_mtime for fault, mark in marks.items() if mark.exists()}
        times |= {fault: time.time() for fault, strike in self._strikes if strike.num_struck}
        self.outcome.times = times | self.outcome.times

    def _expected(self, ended_by: Fault | None, code: int) -> int:
        """The exit code; a run that is asked to stop may just be done."""
        if ended_by is None:
            return 0
        if ended_by.kind == "terminate":
            return 0 if code == 0 else Stopped.exit_code
        return -signal.SIGKILL

    def _see_to_files(self, before: frozenset[Path], *, was_killed: bool) -> None:
        """A supervisor that is killed cannot remove the scratch folder of its attempt; everything else has to go."""
        if was_killed:
            for path in self.scratch.glob("egrc-attempt-*"):
                shutil.rmtree(path)
        laws.require_no_new_file([SHARED_MEMORY, self.scratch], before)

    def _see_to_steps(self) -> None:
        checkpoints = self.run_dir / "checkpoints"
        self._damaged = {path: number for path, number in self._damaged.items() if _number_on_disk(path) == number}
        latest = pointed(checkpoints, LATEST)
        if latest and checkpoints / latest not in self._damaged:
            self._committed = int(latest.removeprefix("step_"))
        self._committed = laws.require_whole_step(self.run_dir, self._committed, self._damaged)

    def _flip(self, fault: Fault) -> None:
        """Change one bit of the newest step; of its files any but the manifest, whose labels vouch for nothing."""
        found = [path for path in steps(self.run_dir / "checkpoints") if path not in self._damaged]
        if not found:
            return
        files = sorted(path for path in found[-1].rglob("*") if path.is_file() and path.name != MANIFEST)
        files = [path for path in files if path.stat().st_size]
        number = int(fault.detail)
        with files[number % len(files)].open("r+b") as file:
            place = number * 7919 % os.fstat(file.fileno()).st_size
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << number % 8]))
        self._damaged[found[-1]] = _number_on_disk(found[-1])
        self._committed = laws.require_whole_step(self.run_dir, 0, self._damaged)
        self.outcome.times[fault] = self._ended_at

    def _events(self) -> list[dict]:
        with suppress(OSError):
            return list(read_events(self.run_dir / "metrics.jsonl"))
        return []

    def _said(self) -> str:
        """By the run, and by who watches the servers."""
        return (self.folder / "console.log").read_text(errors="replace") + self._said_of_servers()[self._said_before :]

    def _said_of_servers(self) -> str:
        return (self.home / "console.log").read_text(errors="replace") if self.home else ""


def _number_on_disk(path: Path) -> int:
    """0 where it is gone."""
    return path.stat().st_ino if path.exists() else 0
