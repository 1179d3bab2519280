"""Hosts within this machine: network namespaces on one switch, whose cables can be pulled (Linux, root, iproute2).

Each has an address of its own, reaches the others over the switch and nothing else, and is called by its own name.
Processes of `testing.forked` that find a host in their environment live there, and so does what they start; files and
process numbers are shared, as machines share a folder.
"""

import ctypes
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

HOST = "EGRC_TEST_HOST"
"""Variable with the host that a process lives on: its namespace and its name, with a space between."""
CLONE_NEWUTS, CLONE_NEWNET = 0x04000000, 0x40000000
NAMESPACES = "/var/run/netns"
DEVICE = "eth0"
"""What every host calls its end of the cable."""


class Hosts:
    """Use as a context manager. The hosts' names are given; their addresses are 10.213.0.1, 10.213.0.2, ..."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._token = f"egrc-{secrets.token_hex(3)}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def address(self, name: str) -> str:
        """The address of a host, which no other machine has."""
        return f"10.213.0.{self.names.index(name) + 1}"

    def variables(self, name: str) -> dict[str, str]:
        """What has a forked process live on a host; gloo is told its device, as its name stands in no table."""
        return {HOST: f"{self._namespace(name)} {name}", "GLOO_SOCKET_IFNAME": DEVICE}

    def pull_cable(self, name: str) -> None:
        """From here on nothing reaches the host, and nobody is told."""
        _ip("-n", self._switch, "link", "set", name, "down")

    def plug_in(self, name: str) -> None:
        """Its cable is there again."""
        _ip("-n", self._switch, "link", "set", name, "up")

    @property
    def _switch(self) -> str:
        return f"{self._token}-switch"

    def _namespace(self, name: str) -> str:
        return f"{self._token}-{name}"

    def _build(self) -> None:
        self._add(self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name in self.names:
            host = self._namespace(name)
            self._add(host)
            ends = ("type", "veth", "peer", "name", DEVICE, "netns", host)
            _ip("link", "add", name, "netns", self._switch, *ends)
            _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")
            _ip("-n", host, "addr", "add", f"{self.address(name)}/24", "dev", DEVICE)
            for device in (DEVICE, "lo"):
                _ip("-n", host, "link", "set", device, "up")

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._stack.callback(_remove, namespace)


def why_not() -> str | None:
    """Why there can be no hosts here; None where there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian: iproute2), which makes network namespaces"
    try:
        with Hosts(["probe"]):
            return None
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted: {error.stderr.strip()}"


def enter(host: str) -> None:
    """Have this process, which has one thread, live on a host, by the value of its variable."""
    namespace, name = host.split()
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(f"{NAMESPACES}/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(file, CLONE_NEWNET) or libc.unshare(CLONE_NEWUTS):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)
    finally:
        os.close(file)
    socket.sethostname(name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _remove(namespace: str) -> None:
    with suppress(subprocess.CalledProcessError):
        _ip("netns", "del", namespace)
