"""A server as a child process: start, wait until it answers, stop. It dies with its parent."""

import asyncio
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from egrc_mega.child_environment import without_secrets
from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import ServerClient, open_session
from egrc_mega.rollout.keys import ADMIN_KEY_VARIABLE, KEY_VARIABLE
from egrc_mega.rollout.start.sglang import launch_sglang, reachable
from egrc_mega.sections.rollout import RolloutSection

STOP_TIMEOUT_S = 10.0
LOG_LINES_SHOWN = 5
POLL_S = 0.05
ASK_TIMEOUT_S = 5.0
"""For what is asked of a server that may not be ours."""


class ServerProcess:
    """One child. `url` is known once `wait_until_ready` has returned."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: dict[str, str] | None = None,
        url: str | None = None,
        weight_version: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        """Start it. Without `url` the command gets `--port-file`, into which it writes its port once it answers.

        Args:
            weight_version: what tells it from a stranger at `url`.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.url, self.host, self.weight_version = log, url, host, weight_version
        self._port_file: Path | None = None
        if url is None:
            self._port_file = Path(tempfile.mkdtemp(prefix="egrc-server-")) / "port"
            command = [*command, "--port-file", str(self._port_file)]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=without_secrets(keep=(KEY_VARIABLE, ADMIN_KEY_VARIABLE)) | (environment or {}),
            )

    def wait_until_ready(self, timeout_s: float) -> str:
        """`ready`, for callers without an event loop."""
        return asyncio.run(self.ready(timeout_s))

    async def ready(self, timeout_s: float) -> str:
        """The server's URL, once it answers.

        Raises:
            RolloutError: it ended early or did not answer in time; with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        async with await open_session() as session:
            while True:
                is_ready = await self._is_ready(session)
                code = self.process.poll()
                if code is not None:
                    raise RolloutError(f"the rollout server ended with exit code {code}: {self.log_tail()}")
                if is_ready and self.url is not None:
                    return self.url
                if time.monotonic() > deadline:
                    raise RolloutError(
                        f"the rollout server did not come up within rollout.start_timeout_s = {timeout_s:g} s: "
                        f"{self.log_tail()}"
                    ) from TimeoutError()
                await asyncio.sleep(POLL_S)

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        if self._port_file is not None:
            if self._port_file.exists():
                self.url = f"http://{reachable(self.host)}:{self._port_file.read_text()}"
            return self.url is not None
        client = ServerClient(session, self.url or "", ASK_TIMEOUT_S)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                is_ours = (await client.model_info()).get("weight_version") == self.weight_version
                return is_ours and await client.is_healthy()
        except (RolloutError, TimeoutError):
            return False

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
        if self._port_file is not None:
            shutil.rmtree(self._port_file.parent, ignore_errors=True)


def start_server(
    section: RolloutSection, model_path: Path, *, number: int, weight_version: str, log: Path, port: int | None = None
) -> ServerProcess:
    """The `number`-th server of a run, embedded or SGLang's; on its own port, if that is given."""
    port = port or (section.port + number if section.port else 0)
    if section.server == "sglang":
        check_port(section.host, port)
        launch = launch_sglang(section, model_path, port=port, number=number, weight_version=weight_version)
        return ServerProcess(
            launch.command, log, environment=launch.environment, url=launch.url, weight_version=weight_version
        )
    return embedded_server(
        model_path,
        port=port,
        weight_version=weight_version,
        max_batch_size=section.max_batch_size,
        log=log,
        host=section.host,
    )


def first_version() -> str:
    """What a run's servers call the weights that they start with: a name that no other run's have."""
    return f"start-{secrets.token_hex(4)}"


def check_port(host: str, port: int) -> None:
    """SGLang would find out after it has loaded the model.

    Raises:
        RolloutError: somebody listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RolloutError(
                f"rollout.port: {host}:{port} cannot be used: {error.strerror}; choose another or 0"
            ) from error


def embedded_server(
    model_path: Path, *, port: int, weight_version: str, max_batch_size: int, log: Path, host: str = "127.0.0.1"
) -> ServerProcess:
    """A CPU server of our own."""
    command = [sys.executable, "-P", "-m", "egrc_mega.embedded", "--exit-with-stdin"]
    command += ["--model-path", str(model_path), "--host", host, "--port", str(port)]
    command += ["--weight-version", weight_version, "--max-batch-size", str(max_batch_size)]
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return ServerProcess(command, log, environment=environment, host=host)
