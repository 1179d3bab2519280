"""Which servers somebody else has started: given by URL, listed in a file, or announced in a shared folder."""

import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from egrc_mega.errors import ConfigError, RolloutError
from egrc_mega.json_file import read_line
from egrc_mega.rollout.keys import KEY_VARIABLE, Keys, is_loopback, url_problem
from egrc_mega.sections.rollout import RolloutSection

POLL_S = 0.2
CONNECT_TIMEOUT_S = 5.0
SUFFIX = ".url"


def find_servers(section: RolloutSection) -> list[str]:
    """Base URLs of the external servers, in an order that every start finds again.

    Raises:
        ConfigError: a URL is not usable, or the hosts file cannot be read.
        RolloutError: fewer than `rollout.num_servers` announce themselves in time.
    """
    urls = list(dict.fromkeys([*section.urls, *_listed(section), *_announced(section)]))
    for url in urls:
        problem = url_problem(url, Keys.from_environment())
        if problem:
            raise ConfigError(f"rollout.urls: {problem}")
    return urls


def check_host(section: RolloutSection) -> None:
    """Refuse to open servers to others without a key.

    Raises:
        ConfigError: naming the address.
    """
    if ":" in section.host:
        raise ConfigError(f"rollout.host: servers are started on IPv4 addresses, {section.host} is none; give one")
    if not is_loopback(section.host) and not Keys.from_environment().api:
        raise ConfigError(
            f"rollout.host: {section.host} can be reached from other machines, so the servers need a key; "
            f"give it in {KEY_VARIABLE}, or listen on 127.0.0.1"
        )


def _listed(section: RolloutSection) -> list[str]:
    if section.hosts_file is None:
        return []
    try:
        lines = section.hosts_file.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"rollout.hosts_file: {section.hosts_file} cannot be read: {error.strerror}") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _announced(section: RolloutSection) -> list[str]:
    if section.announce_dir is None:
        return []
    deadline = time.monotonic() + section.start_timeout_s
    while len(found := _answering(section.announce_dir)) < section.num_servers:
        if time.monotonic() > deadline:
            silent = [file.name for file in section.announce_dir.glob(f"*{SUFFIX}") if _url_in(file) not in found]
            raise RolloutError(
                f"rollout.announce_dir: {len(found)} of rollout.num_servers = {section.num_servers} servers have "
                f"announced themselves in {section.announce_dir} within rollout.start_timeout_s = "
                f"{section.start_timeout_s:g} s; start them with egrc serve"
                + (f"; nobody answers at what {', '.join(sorted(silent))} say" if silent else "")
            )
        time.sleep(POLL_S)
    return found


def _answering(folder: Path) -> list[str]:
    """URLs of the announced servers that are there: who was killed has left its announcement behind."""
    urls = [url for file in sorted(folder.glob(f"*{SUFFIX}")) if (url := _url_in(file))]
    with ThreadPoolExecutor() as pool:
        return [url for url, is_there in zip(urls, pool.map(_is_there, urls), strict=True) if is_there]


def _url_in(file: Path) -> str:
    try:
        return read_line(file)
    except (OSError, ValueError):  # just taken away, or nothing of ours
        return ""


def _is_there(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False


@contextmanager
def announced(urls: Sequence[str], folder: Path | None) -> Iterator[None]:
    """Keep a file for each server in `folder` while they serve; a file is there whole or not at all."""
    files = []
    for url in urls if folder is not None else ():
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        parts = urlsplit(url)
        file = folder / f"{socket.gethostname()}-{parts.port}{SUFFIX}"
        partial = folder / f".{file.name}.{secrets.token_hex(8)}"
        with partial.open("x") as written:  # others may write here: a link in its place is not followed
            written.write(f"{url}\n")
        partial.replace(file)
        files.append(file)
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)
