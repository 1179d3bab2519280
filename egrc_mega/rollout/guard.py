"""Runs a command and ends it, with all its children, when our standard input closes: no server outlives its trainer.

    python -m egrc_mega.rollout.guard COMMAND [ARGUMENT ...]

SGLang's launcher has children of its own and does not watch its parent. The pipe closes even when the parent is killed.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

import psutil

GRACE_S = 5.0
PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """The command's exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)

    def end(*_signal: object) -> None:
        threading.Thread(target=_end_tree, args=(child.pid,), daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_wait_for_end_of_input, args=(end,), daemon=True).start()
    return child.wait()


def _die_with_parent() -> None:
    """When the guard itself is killed, the kernel kills the command (Linux); SGLang's children then end themselves."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


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
