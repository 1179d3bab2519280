"""Runs SGLang's launcher and ends it and its children when our standard input closes: no server outlives its trainer.

    python -m egrc_mega.rollout.start.guard COMMAND [ARGUMENT ...]

The launcher has children of its own and does not watch its parent. The pipe closes even when the parent is killed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial

import psutil

from egrc_mega.parent import die_with_parent
from egrc_mega.rollout.keys import Keys

GRACE_S = 5.0


def main(command: list[str]) -> int:
    """The command's exit code."""
    keys = Keys.from_environment()
    with _key_file(keys) as flags:
        return _run([*command, *flags], keys)


def _run(command: list[str], keys: Keys) -> int:
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # when the guard itself is killed, the kernel kills the command; SGLang's children then end themselves
        preexec_fn=partial(die_with_parent, os.getpid()),
    )

    def end(*_signal: object) -> None:
        threading.Thread(target=_end_tree, args=(child.pid,), daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_wait_for_end_of_input, args=(end,), daemon=True).start()
    assert child.stdout is not None
    for line in child.stdout:  # SGLang logs its arguments, the keys among them
        with contextlib.suppress(OSError):  # a full disk must not end the server
            os.write(1, keys.redact(line).encode())
    return child.wait()


@contextlib.contextmanager
def _key_file(keys: Keys) -> Iterator[list[str]]:
    """Flags that give SGLang its keys in a file that only we can read: everybody can read a command line."""
    if not (keys.api or keys.admin):
        yield []
        return
    with tempfile.NamedTemporaryFile("w", prefix="egrc-keys-", suffix=".yaml") as file:
        named = {"api-key": keys.api, "admin-api-key": keys.admin}
        json.dump({name: key for name, key in named.items() if key}, file)  # JSON is YAML
        file.flush()
        yield ["--config", file.name]


def _wait_for_end_of_input(end: object) -> None:
    while os.read(0, 1024):
        pass
    assert callable(end)
    end()


def _end_tree(pid: int) -> None:
    """Ask the process, which tells its children; then kill whoever is left of those it had."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    _send(root, signal.SIGTERM)
    _gone, alive = psutil.wait_procs(tree, GRACE_S)
    for process in alive:
        _send(process, signal.SIGKILL)


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
