"""`egrc train --supervise`: starts a run, and starts it again from its last committed step when it dies.

It imports no model and holds nothing of the run, so what ends the run leaves it alone. On several nodes each has its
own: when a rank dies its peers lose their links and die too, every node starts its share again, and rank 0 says where
to go on.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

import psutil

from egrc_mega.errors import Stopped
from egrc_mega.launch.deaths import Death, judge
from egrc_mega.observe.events import EventLog, read_events
from egrc_mega.parent import die_with_parent
from egrc_mega.run_folder import STOP, SUPERVISED, forget_stop
from egrc_mega.sections.supervisor import SupervisorSection

PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.1
ORPHANS_TIMEOUT_S = 30.0
"""What an attempt has left behind and does not vanish so long after being killed waits for a broken disk or device."""


class Supervisor:
    """Starts one command until it has done its work, is asked to stop, or is not worth another attempt.

    Args:
        command: begins the run, or goes on with it where the folder holds one.
        run_dir: folder of the run, where its steps are recorded.
        keeps_record: whether restarts are written into the run's events; of several nodes the first does.
    """

    def __init__(
        self,
        command: Sequence[str],
        run_dir: Path,
        rules: SupervisorSection,
        *,
        keeps_record: bool = True,
    ) -> None:
        self.command, self.metrics, self.rules = list(command), run_dir / "metrics.jsonl", rules
        self.run_dir = run_dir
        self.keeps_record = keeps_record
        self.is_stopping = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The exit code: the run's own, or that of `Stopped` when somebody has asked for it."""
        _adopt_orphans()
        if self.keeps_record:
            forget_stop(self.run_dir)
        before = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._attempts()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _attempts(self) -> int:
        deaths: list[Death] = []
        while True:
            code = self._attempt()
            if self.is_stopping or code in (0, Stopped.exit_code):
                return Stopped.exit_code if code else 0
            deaths.append(Death(code, self._last_step(), time.monotonic()))
            verdict = judge(deaths, self.rules)
            self._record(deaths, verdict.reason, restarts=verdict.wait_s is not None)
            if verdict.wait_s is None:
                _say(f"egrc: the run is left as it is: {verdict.reason}")
                return code if code > 0 else 128 - code
            _say(f"egrc: the run has died ({verdict.reason}); restart {len(deaths)} in {verdict.wait_s:g} s")
            if not self._wait(verdict.wait_s):
                return Stopped.exit_code

    def _attempt(self) -> int:
        """Run the command once, in a scratch folder of its own; neither processes nor files of it are left."""
        scratch = tempfile.mkdtemp(prefix="egrc-attempt-")
        try:
            self._child = subprocess.Popen(
                self.command,
                env=os.environ | {"TMPDIR": scratch, SUPERVISED: "1"},
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
            if self.is_stopping:  # it came while there was nobody to pass it on to
                self._child.send_signal(signal.SIGTERM)
            return self._child.wait()
        finally:
            self._child = None
            _end_orphans()
            shutil.rmtree(scratch, ignore_errors=True)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self.is_stopping = True
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    def _wait(self, seconds: float) -> bool:
        """False when a stop was asked for meanwhile, or of the attempt that has died."""
        deadline = time.monotonic() + seconds
        while not self._is_to_stop() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))
        return not self._is_to_stop()

    def _is_to_stop(self) -> bool:
        return self.is_stopping or (self.run_dir / STOP).exists()

    def _last_step(self) -> int:
        """Number of the step that was recorded last."""
        last = 0
        with suppress(OSError):
            for event in read_events(self.metrics):
                last = event["step"] if event.get("kind") == "step" else last
        return last

    def _record(self, deaths: Sequence[Death], reason: str, *, restarts: bool) -> None:
        if self.keeps_record and self.metrics.exists():
            with suppress(OSError), EventLog(self.metrics) as events:
                events.write("restart" if restarts else "left", attempt=len(deaths), reason=reason)


def _say(line: str) -> None:
    print(line, flush=True)


def _adopt_orphans() -> None:
    """Have the kernel hand this process whatever a descendant leaves behind (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _end_orphans() -> None:
    """Kill every process below this one, and collect those that are its children by now."""
    deadline = time.monotonic() + ORPHANS_TIMEOUT_S
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
