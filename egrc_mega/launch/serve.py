"""`egrc serve`: rollout servers without a run, watched until they are no longer wanted; and a look at any server."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egrc_mega.config.check import server_problems
from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError, RolloutError
from egrc_mega.rollout.client import ServerClient, open_session
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.start.discovery import announced
from egrc_mega.rollout.start.process import first_version

WATCH_S = 1.0
COUNTERS = ("num_steps", "num_tokens")
"""What a server may tell of its load."""


def serve(config_files: Sequence[Path], overrides: Sequence[str]) -> None:
    """Start the configuration's servers, say where they are, and restart what dies, until SIGINT or SIGTERM.

    Raises:
        ConfigError: the configuration contradicts itself, or says that somebody else starts them.
        RolloutError: one does not come up, or `rollout.max_restarts` is used up.
    """
    config = load_config(config_files, list(overrides)).config
    if config.rollout.server == "external":
        raise ConfigError("rollout.server: external servers are started by somebody else; set it to sglang or embedded")
    if problems := [str(problem) for problem in server_problems(config)]:
        raise ConfigError("\n".join(problems))
    # service managers send this one; servers and announcements go then, too
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    log_dir = config.run.dir / "serve" / socket.gethostname()  # the folder is shared
    with Fleet.start(config.rollout, config.model.path, first_version(), log_dir, note=_say) as fleet:
        urls = [announced_address(server.client.url, config.rollout.host) for server in fleet.servers]
        with announced(urls, config.rollout.announce_dir):
            print(f"rollout.urls=[{','.join(urls)}]  # logs: {log_dir}; Ctrl-C or SIGTERM ends them", flush=True)
            _watch(fleet)


def announced_address(url: str, host: str) -> str:
    """Where other machines find a server that listens on all addresses."""
    if host != "0.0.0.0":
        return url
    full = socket.getfqdn()
    # where /etc/hosts has the machine's name beside localhost, that is what it is said to be called
    return url.replace("127.0.0.1", socket.gethostname() if full.startswith("localhost") else full)


def _say(line: str) -> None:
    print(line, flush=True)


def _watch(fleet: Fleet) -> None:
    while True:
        time.sleep(WATCH_S)
        fleet.revive()


def status(urls: Sequence[str]) -> tuple[list[str], bool]:
    """A line for each server, and whether all of them are well."""
    return asyncio.run(_status(urls))


async def _status(urls: Sequence[str]) -> tuple[list[str], bool]:
    session = await open_session()
    try:
        answers = await asyncio.gather(*(_line(ServerClient(session, url, 30.0)) for url in urls))
    finally:
        await session.close()
    return [line for line, _is_well in answers], all(is_well for _line, is_well in answers)


async def _line(client: ServerClient) -> tuple[str, bool]:
    try:
        info, details = await client.model_info(), await client.server_info()
    except RolloutError as error:
        return f"{client.url}  lost: {error}", False
    is_healthy = await client.is_healthy()
    states: dict[str, Any] = (details.get("internal_states") or [{}])[0]
    loads = [f"{name} {states[name]}" for name in COUNTERS if name in states]
    waiting = await client.num_waiting()
    loads += [f"queue {waiting}"] if waiting is not None else []
    words = ["healthy" if is_healthy else "not healthy", f"weights {info.get('weight_version')}", *loads]
    return f"{client.url}  {', '.join(words)}, {info.get('model_path')}", is_healthy
