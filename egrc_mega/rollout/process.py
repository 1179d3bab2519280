"""An embedded server as a child process: start, wait until it answers, stop. It dies with its parent."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from egrc_mega.errors import RolloutError

STOP_TIMEOUT_S = 10.0
LOG_LINES_SHOWN = 5


class ServerProcess:
    """One child. `url` is known once `wait_until_ready` has returned."""

    def __init__(self, model_path: Path, *, port: int, weight_version: str, max_batch_size: int, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._port_file = Path(tempfile.mkdtemp(prefix="egrc-server-")) / "port"
        command = [sys.executable, "-P", "-m", "egrc_mega.rollout.embedded", "--exit-with-stdin"]
        command += ["--model-path", str(model_path), "--port", str(port), "--port-file", str(self._port_file)]
        command += ["--weight-version", weight_version, "--max-batch-size", str(max_batch_size)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
            )

    def wait_until_ready(self, timeout_s: float) -> str:
        """The server's URL.

        Raises:
            RolloutError: it ended early or did not answer in time; with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self._port_file.exists():
            code = self.process.poll()
            if code is not None:
                raise RolloutError(f"the rollout server ended with exit code {code}: {self.log_tail()}")
            if time.monotonic() > deadline:
                raise RolloutError(
                    f"the rollout server did not come up within rollout.start_timeout_s = {timeout_s:g} s: "
                    f"{self.log_tail()}"
                )
            time.sleep(0.05)
        return f"http://127.0.0.1:{self._port_file.read_text()}"

    def log_tail(self) -> str:
        """Where the log is, and its last lines in one."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return f"see {self.log}; it ends with: {' | '.join(line.strip() for line in lines)}"

    def stop(self) -> None:
        """End the child and wait for it."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)
        self._port_file.unlink(missing_ok=True)
        self._port_file.parent.rmdir()
