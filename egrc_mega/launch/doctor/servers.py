"""The servers' environment, and servers that somebody else has started: SGLang's version, and whether they answer."""

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egrc_mega.errors import EgrcError
from egrc_mega.launch.doctor.finding import Finding, fail, ok, warn
from egrc_mega.rollout.client import ServerClient, open_session

TESTED_SGLANG = "0.5.23"
"""`scripts/serve/*.lock`."""
OWN = "egrc_mega"
"""With this the embedded server's version begins."""
ASK_S = 60.0
ANSWER_S = 10.0
ASK = """
import json
from importlib.metadata import distributions
wanted = ("sglang", "torch", "transformers", "kernels")
found = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
nccl = sorted({version for name, version in found.items() if name.startswith("nvidia-nccl")})
print(json.dumps({name: found[name] for name in wanted if name in found} | {"nccl": " ".join(nccl)}))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """What an interpreter has."""

    python: Path
    versions: dict[str, str]
    trouble: str = ""
    """Why it could not be asked."""


def look_into(python: Path) -> Environment:
    """Ask an interpreter for its packages, without importing any."""
    try:
        command = [str(python), "-I", "-c", ASK]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_S).stdout
        return Environment(python, json.loads(said))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Environment(python, {}, str(error))


def environment_finding(there: Environment | None, *, wanted: bool) -> Finding:
    """Of the servers' environment.

    Args:
        there: None: there is none.
        wanted: a configuration has runs start SGLang's servers.
    """
    name, build = "servers' environment", "bash scripts/serve_env.sh builds it"
    if there is None:
        return fail(name, "none", build) if wanted else ok(name, f"none: only SGLang needs it; {build}")
    if there.trouble:
        return fail(name, f"{there.python} cannot be run: {there.trouble}", build)
    sglang = there.versions.get("sglang")
    if sglang is None:
        verdict = fail if wanted else warn
        return verdict(name, f"{there.python} has no sglang", f"{build}, or name another in rollout.python")
    versions = ", ".join(f"{package} {number}" for package, number in there.versions.items() if number)
    return _of_version(name, sglang, f"{there.python}: {versions}")


def server_findings(urls: Sequence[str]) -> list[Finding]:
    """One for each server, all asked at once."""
    return asyncio.run(_ask_all(urls)) if urls else []


async def _ask_all(urls: Sequence[str]) -> list[Finding]:
    session = await open_session()
    try:
        return list(await asyncio.gather(*(_ask(ServerClient(session, url, ANSWER_S)) for url in urls)))
    finally:
        await session.close()


async def _ask(client: ServerClient) -> Finding:
    name = f"server {client.url}"
    try:
        async with asyncio.timeout(ANSWER_S):
            info, details = await client.model_info(), await client.server_info()
            is_healthy = await client.is_healthy()
    except TimeoutError:
        return fail(name, f"no answer within {ANSWER_S:g} s", "see its log, and whether a firewall drops the packets")
    except EgrcError as error:
        return fail(name, _reason(error), "start it (egrc serve), or see that its address and port are right")
    found = f"{info.get('model_path')}, weights {info.get('weight_version')}"
    if not is_healthy:
        return fail(name, f"{found}, but /health says that it is ill", "see its log; a paused one is resumed by a run")
    return _of_server(name, details, found)


def _reason(error: EgrcError) -> str:
    """In few words where the system has refused the connection."""
    cause = getattr(error.__cause__, "os_error", None)
    return f"cannot be reached: {os.strerror(cause.errno)}" if cause and cause.errno else str(error)


def _of_server(name: str, details: dict[str, Any], found: str) -> Finding:
    version = details.get("version")
    if not version or str(version).startswith(OWN):
        return ok(name, found)
    return _of_version(name, str(version), f"SGLang {version}: {found}")


def _of_version(name: str, version: str, found: str) -> Finding:
    if version == TESTED_SGLANG:
        return ok(name, found)
    return warn(name, found, f"tested with SGLang {TESTED_SGLANG}: install that where something behaves oddly")
