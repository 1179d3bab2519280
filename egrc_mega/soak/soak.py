"""`egrc soak`: round after round of faults, until the minutes are over or a law is broken."""

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from egrc_mega.errors import RunError
from egrc_mega.soak import laws
from egrc_mega.soak.link import Link
from egrc_mega.soak.processes import SHARED_MEMORY, Growth, server, working_in
from egrc_mega.soak.round import SESSION_LIMIT_S, Outcome, Round
from egrc_mega.soak.schedule import NUM_SERVERS, plan
from egrc_mega.soak.setting import serve_command, start, train_command, write_config

SUMMARY = "summary.json"
SERVERS_TIMEOUT_S = 300.0
POLL_S = 0.1
SHOWN = 2000
"""Characters of what a command has said, where it does not work at all."""


def soak(seed: int, minutes: float, folder: Path, say: Callable[[str], None], first: int = 1) -> dict[str, Any]:
    """Throw the seed's faults at a run, round after round; the summary, which also stands in the folder.

    No round is begun that would not end within the minutes if it took as long as the longest so far; there is one at
    least. The folder of a round goes with it when all laws have held.

    Args:
        folder: of the runs; made here.
        first: number of the round to begin with: one that has broken a law can be had again alone.

    Raises:
        RunError: the folder is there already, or the run or its servers do not work even undisturbed.
    """
    started = time.monotonic()
    end = started + 60.0 * minutes
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RunError(f"--out: {folder} is there already; choose another folder") from None
    outcomes: list[Outcome] = []
    of_servers, of_ranks, of_us = Growth(), Growth(), Growth()
    with _Site(seed, folder) as site:
        site.run_undisturbed()
        say(f"undisturbed: {time.monotonic() - started:.0f} s")
        while not outcomes or time.monotonic() + max(outcome.seconds for outcome in outcomes) < end:
            one = site.round(first + len(outcomes))
            outcomes.append(one.run())
            say(_line(outcomes[-1]))
            of_ranks.uses |= one.growth.uses
            of_us.look("soak", psutil.Process())
            site.look_at_servers(of_servers)
            if outcomes[-1].broken:
                break
            shutil.rmtree(one.folder)
        watched = [of_ranks, of_servers, of_us]
        if not outcomes[-1].broken and (excess := [line for growth in watched for line in growth.excess()]):
            outcomes[-1].broken = f"law 2 is broken: {'; '.join(excess)}"
    left = site.left
    summary = _summary(seed, minutes, time.monotonic() - started, outcomes, watched, left)
    (folder / SUMMARY).write_text(json.dumps(summary, indent=1))
    return summary


class _Site:
    """What all rounds share: the configuration, the servers of `egrc serve` with their links, the undisturbed run."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder.resolve()
        self.home, self.undisturbed = self.folder / "servers", self.folder / "undisturbed"
        self.links: list[Link] = []
        self.left = ""
        """What was left of the servers at the end."""

    def __enter__(self) -> "_Site":
        self.home.mkdir()
        self.undisturbed.mkdir()
        self.config = write_config(self.folder, self.seed)
        self._before = laws.listing([SHARED_MEMORY])
        self._stack = ExitStack()
        try:
            urls = self._stack.enter_context(self._serving())
            self.links = [self._stack.enter_context(Link(url)) for url in urls]
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    @contextmanager
    def _serving(self) -> Iterator[list[str]]:
        """Servers that live through all rounds; where they are."""
        command = serve_command(self.config, self.home)
        process = start(command, self.home, self.home / "console.log", {})
        try:
            yield self._urls(process)
        finally:
            process.terminate()
            try:
                laws.require_end(process, SESSION_LIMIT_S)
                laws.require_no_process(working_in(self.home))
                laws.require_no_new_file([SHARED_MEMORY, self.home / "tmp"], self._before)
            except laws.BrokenLaw as broken:
                self.left = str(broken)

    def _urls(self, process: "subprocess.Popen[bytes]") -> list[str]:
        deadline = time.monotonic() + SERVERS_TIMEOUT_S
        while not (found := re.search(r"rollout\.urls=\[(.+)\]", said := (self.home / "console.log").read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"egrc serve does not come up; it has said last: {said[-SHOWN:]}")
            time.sleep(POLL_S)
        return found[1].split(",")

    def run_undisturbed(self) -> None:
        """The run whose weights all rounds must end with."""
        command, log = train_command(self.config, self.undisturbed / "run"), self.undisturbed / "console.log"
        process = start(command, self.undisturbed, log, {})
        laws.require_end(process, SESSION_LIMIT_S)
        if process.returncode:
            said = log.read_text(errors="replace")[-SHOWN:]
            raise RunError(f"the undisturbed run ended with {process.returncode}; it has said last: {said}")

    def round(self, number: int) -> Round:
        """The seed's round of that number, in a folder of its own."""
        drawn, folder = plan(self.seed, number), self.folder / f"round_{number:03d}"
        folder.mkdir()
        is_own = drawn.servers == "own"
        home, links = (None, []) if is_own else (self.home, self.links)
        return Round(drawn, folder, self.config, self.undisturbed / "run", home, links)

    def look_at_servers(self, growth: Growth) -> None:
        """At what the servers use, between two rounds."""
        for number in range(NUM_SERVERS):
            if (process := server(self.home, number)) is not None:
                growth.look("server of egrc serve", process)


def _line(outcome: Outcome) -> str:
    struck = [f"{fault}" if fault in outcome.struck else f"({fault})" for fault in outcome.plan.faults]
    saves = "asynchronous" if outcome.plan.is_asynchronous else "synchronous"
    return (
        f"round {outcome.plan.number}: {outcome.seconds:.0f} s, {outcome.plan.servers} servers, {saves} saves, "
        f"{outcome.num_sessions - 1 + outcome.num_restarts} restarts; {', '.join(struck)}: "
        f"{outcome.broken or 'every law holds'}"
    )


def _summary(
    seed: int, minutes: float, seconds: float, outcomes: Sequence[Outcome], watched: Sequence[Growth], left: str
) -> dict[str, Any]:
    broken = [f"round {each.plan.number}: {each.broken}" for each in outcomes if each.broken]
    thrown = Counter(fault.kind for each in outcomes for fault in each.struck)
    planned = sum(len(each.plan.faults) for each in outcomes)
    return {
        "seed": seed,
        "minutes": minutes,
        "seconds": round(seconds),
        "rounds": len(outcomes),
        "restarts": sum(each.num_sessions - 1 + each.num_restarts for each in outcomes),
        "faults": thrown.total(),
        "faults_by_kind": dict(thrown.most_common()),
        "faults_that_came_too_late": planned - thrown.total(),
        "growth": {name: most for growth in watched for name, most in growth.largest().items()},
        "broken": broken + ([left] if left else []),
        "holds": not broken and not left,
    }
