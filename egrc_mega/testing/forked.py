"""Starts `python -m MODULE ...` by forking a process that has imported everything: a test's run begins at once.

A whole run imports torch and megatron in its trainer and transformers in each of its servers: ten of its fourteen
seconds. A nursery imports them once. What it forks is a process like any other, with arguments, variables, streams
and a number of its own; what that one starts in its turn is forked as well, and its graders' fork server from a second
nursery, which has imported what graders need and nothing else. Two things differ: its parent is a keeper,
not who asked for it, and the command line that the system shows is the nursery's; its name is its module's. Tests that
look at parents or command lines start true processes.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil

from egrc_mega.parent import LAUNCHER, die_with_parent
from egrc_mega.testing.hosts import HOST, enter

MAINS = {
    "egrc_mega.cli.main": "egrc_mega.cli.main",
    "egrc_mega.train": "egrc_mega.train",
    "egrc_mega.embedded": "egrc_mega.embedded.__main__",
    "egrc_mega.launch.agent": "egrc_mega.launch.agent",
}
"""What can be forked, as it stands behind `python -m`, and the module that has its `main`."""
SERVERS = "egrc_mega.rollout.start.process"
STARTERS = {
    SERVERS: "subprocess",
    "egrc_mega.launch.train": "subprocess",
    "egrc_mega.launch.supervisor": "subprocess",
    "egrc_mega.soak.setting": "subprocess",
    "egrc_mega.studies.worker": "subprocess",
    "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler": "Popen",
}
"""The modules whose children are forked in a forked process, and the name by which they start them."""
GRADERS_STARTER = "egrc_mega.grading.worker"
FORK_SERVER = "multiprocessing.forkserver"
PRELOADED = {
    "runs": (*MAINS.values(), *STARTERS, GRADERS_STARTER, "egrc_mega.embedded.server", "egrc_mega.report.pareto"),
    "graders": ("egrc_mega.grading.preload",),
}
"""What each nursery imports."""
MAX_MESSAGE_BYTES, MAX_FILES = 2**17, 16
FREE = 256
"""No file has such a number yet."""


@dataclass(frozen=True)
class Birth:
    """What a process is to be."""

    module: str
    arguments: list[str]
    variables: dict[str, str]
    folder: str
    dies_with_parent: bool
    own_session: bool
    passed: list[int]
    """Numbers of the files that it gets beside its three streams."""


class Nursery:
    """The processes that others are forked from; they end with the one that has started them, or when told to."""

    def __init__(self) -> None:
        """Start them. They import meanwhile: who asks for a process too early waits."""
        # a path: abstract names are known within one network namespace only (see `testing.hosts`)
        self._place = tempfile.TemporaryDirectory(prefix="egrc-nursery-")
        self.address = self._place.name
        self.processes = {kind: self._start(kind) for kind in PRELOADED}

    def _start(self, kind: str) -> "subprocess.Popen[bytes]":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"{self.address}/{kind}")
            listener.listen(64)
            number = listener.fileno()
            command = [sys.executable, "-P", "-m", "egrc_mega.testing.forked", kind, str(number), self.address]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, pass_fds=[number])

    def close(self) -> None:
        """End them; what they have forked lives on."""
        for process in self.processes.values():
            process.kill()
            process.communicate()
        self._place.cleanup()


class ForkedPopen(subprocess.Popen[Any]):
    """`subprocess.Popen`, but that a nursery forks the child, and a keeper beside the child waits for it."""

    def _execute_child(self, args: Sequence[str], _executable: Any, preexec_fn: Any, *more: Any) -> None:
        _close_fds, passed, folder, variables, _info, _flags, _shell, *pipes = more[:13]
        module, arguments = _split(args) or ("", [])
        variables = dict(os.environ if variables is None else variables)
        folder = os.path.abspath(folder or ".")
        birth = Birth(module, arguments, variables, folder, preexec_fn is not None, bool(more[18]), list(passed))
        message = json.dumps(asdict(birth)).encode()
        streams = [pipe if pipe != -1 else number for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        self._keeper = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._keeper.connect(f"{nursery_address()}/{'graders' if module == FORK_SERVER else 'runs'}")
        socket.send_fds(self._keeper, [message], [*streams, *passed])
        self.pid = int(self._keeper.recv(32))
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """Number and status, as `os.waitpid` returns them; zeros while it runs."""
        ready, _, _ = select.select([self._keeper], [], [], 0 if flags & os.WNOHANG else None)
        return (self.pid, int(self._keeper.recv(32))) if ready else (0, 0)

    def _internal_poll(self, *_old: Any, **_more: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


@dataclass
class _Place:
    """Where this process has its children forked; nowhere: they are true ones."""

    address: str = ""
    nursery: Nursery | None = None
    is_open: bool = False


_place = _Place()


def nursery_address() -> str:
    """Folder of the nursery's sockets; it is started when it is first needed."""
    if not _place.address:
        _place.nursery = Nursery()
        _place.address = _place.nursery.address
    return _place.address


def use_nursery(address: str) -> None:
    """From here on, for good, `popen` forks what it starts from another process's nursery."""
    _place.address, _place.is_open = address, True


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Within it, `popen` forks what it starts, and this process has its servers forked too."""
    _replace(SERVERS)
    _place.is_open = True
    try:
        yield
    finally:
        _place.is_open, _place.address = False, ""
        if _place.nursery:
            _place.nursery.close()
            _place.nursery = None


@contextlib.contextmanager
def true_processes() -> Iterator[None]:
    """Within `forking`: what is started here is no fork."""
    before, _place.is_open = _place.is_open, False
    try:
        yield
    finally:
        _place.is_open = before


def popen(args: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """`subprocess.Popen`, forked where there is a nursery and it can."""
    return (ForkedPopen if _place.is_open and _split(args) else subprocess.Popen)(args, **options)


def run(args: Sequence[str], timeout_s: float = 120, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """`subprocess.run` that keeps what is said on both streams, forked where there is a nursery and it can."""
    process = popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(args, process.returncode, output, errors)


def _split(args: Sequence[str]) -> tuple[str, list[str]] | None:
    """The module that a command runs, and its arguments; None when it can't be forked."""
    if str(args[-1]).startswith(f"from {FORK_SERVER} import main"):
        return FORK_SERVER, [args[-1]]
    if args[0] != sys.executable or "-m" not in args[:4]:
        return None
    place = list(args).index("-m") + 1
    return (args[place], list(args[place + 1 :])) if args[place] in MAINS else None


def _replace(starter: str) -> None:
    attribute = STARTERS.get(starter, "subprocess")
    setattr(importlib.import_module(starter), attribute, popen if attribute == "Popen" else _Subprocess())


class _System:
    """The module `os` for multiprocessing's look at its fork server, of which a keeper is the parent."""

    @staticmethod
    def waitpid(pid: int, options: int) -> tuple[int, int]:
        """As `os.waitpid`; zeros while somebody else's child runs."""
        try:
            return os.waitpid(pid, options)
        except ChildProcessError:
            return (0, 0) if psutil.pid_exists(pid) else (pid, 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class _Subprocess:
    """The module `subprocess`, but for `Popen`."""

    Popen = staticmethod(popen)

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)


def _attend(listener: socket.socket) -> tuple[Birth, list[int]]:
    """Fork whoever is asked for, until standard input closes; only forked processes come back from here."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how keepers ended
    while True:
        ready, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in ready:
            sys.exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # a shell has it ignored in what it runs in its background, and `nohup` the other
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            message, streams, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, MAX_FILES)
            birth = Birth(**json.loads(message))
            _keep(connection, birth, streams)
            return birth, streams
        connection.close()


def _keep(connection: socket.socket, birth: Birth, streams: list[int]) -> None:
    """Fork the process itself, which comes back; wait for it, and tell who asked for it how it ended.

    When nobody is there to be told any more the keeper ends, and with it a process that dies with its parent.
    """
    keeper, child = os.getpid(), os.fork()
    if child == 0:
        connection.close()
        if birth.dies_with_parent:
            die_with_parent(keeper)
        return
    for stream in (0, *streams):
        os.close(stream)
    with contextlib.suppress(OSError):
        connection.send(str(child).encode())
        client, end = connection.fileno(), os.pidfd_open(child)
        ready, _, _ = select.select([client, end], [], [])
        if client not in ready:
            connection.send(str(os.waitpid(child, 0)[1]).encode())
    os._exit(0)


def _live(birth: Birth, streams: list[int]) -> None:
    """Become the process that was asked for; returns or raises as its `main` does."""
    _take(streams, [0, 1, 2, *birth.passed])
    if birth.own_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(birth.variables)
    os.environ.pop(LAUNCHER, None)  # the parent is a keeper
    if host := birth.variables.get(HOST):
        enter(host)
    os.chdir(birth.folder)
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(birth.module.removeprefix("egrc_mega."))
    code = _outcome(_main_of(birth))
    # taking everything apart that was imported would take a second
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _take(files: list[int], numbers: list[int]) -> None:
    """Give files, whose numbers may be among the wanted ones, these numbers."""
    aside = [fcntl.fcntl(file, fcntl.F_DUPFD, FREE) for file in files]
    for file, number in zip(aside, numbers, strict=True):
        os.dup2(file, number)
    for file in {*files, *aside} - set(numbers):
        os.close(file)


def _main_of(birth: Birth) -> Callable[[], None]:
    """What the process runs; what it starts in its turn is forked."""
    if birth.module == FORK_SERVER:
        return partial(exec, birth.arguments[0], {})
    for starter in (*STARTERS, GRADERS_STARTER):
        _replace(starter)
    forkserver.os = _System()  # type: ignore[attr-defined]
    module = importlib.import_module(MAINS[birth.module])
    sys.argv = [str(module.__file__), *birth.arguments]
    main: Callable[[], None] = module.main
    return main


def _outcome(main: Callable[[], None]) -> int:
    """Exit code of a `main`, as the interpreter has it."""
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """The nursery's life, and then that of each process forked from it."""
    kind, number, address = sys.argv[1:]
    listener = socket.socket(fileno=int(number))
    use_nursery(address)
    for name in PRELOADED[kind]:
        importlib.import_module(name)
    gc.freeze()  # what is never collected stays shared between the processes
    _live(*_attend(listener))


if __name__ == "__main__":
    # in the module that others import, not in this copy of it: it has the address that they look at
    importlib.import_module("egrc_mega.testing.forked").main()
