"""The checks that need the packages of a run: devices, servers, the system."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError, RolloutError
from egrc_mega.launch.doctor.finding import Finding, fail
from egrc_mega.launch.doctor.gpu import Driver, gpu_findings, look_at_torch, nccl_finding
from egrc_mega.launch.doctor.packages import engine_finding
from egrc_mega.launch.doctor.servers import Environment, environment_finding, look_into, server_findings
from egrc_mega.launch.doctor.system import look_at_system, system_findings
from egrc_mega.policy.layer_spec import parts_in_use, uses_transformer_engine
from egrc_mega.rollout.start.discovery import find_servers
from egrc_mega.rollout.start.sglang import find_python
from egrc_mega.sections.rollout import RolloutSection


def further_findings(
    driver: Driver,
    versions: Mapping[str, str],
    config_files: Sequence[Path],
    overrides: Sequence[str],
    urls: Sequence[str],
) -> Iterator[Finding]:
    """Of a machine whose packages are right.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    rollout, run_dir = RolloutSection(), Path(".")
    if config_files:
        config = load_config(config_files, list(overrides)).config
        rollout, run_dir = config.rollout, config.run.dir
    has_gpu = driver.version is not None
    if has_gpu and "transformer-engine" in versions:
        yield engine_finding(versions["transformer-engine"], imports=uses_transformer_engine("auto"))
    yield from gpu_findings(driver, look_at_torch(), wants_gpu=rollout.device == "cuda")
    ours, theirs = look_into(Path(sys.executable)), _servers_environment(rollout)
    yield nccl_finding(ours.versions.get("nccl", ""), theirs.versions.get("nccl", "") if theirs else None, has_gpu)
    yield environment_finding(theirs, wanted=rollout.server == "sglang")
    yield from _servers(rollout, urls)
    yield from system_findings(look_at_system(run_dir), has_gpu=has_gpu)


def parts() -> dict[str, str]:
    """Which implementations a run would use."""
    return parts_in_use("auto")


def _servers_environment(section: RolloutSection) -> Environment | None:
    try:
        return look_into(find_python(section))
    except ConfigError:
        return None


def _servers(section: RolloutSection, urls: Sequence[str]) -> list[Finding]:
    """Those that are named, and those of the configuration."""
    if section.server != "external":
        return server_findings(urls)
    try:
        return server_findings(list(dict.fromkeys([*urls, *find_servers(section)])))
    except (ConfigError, RolloutError) as error:
        fix = "see rollout.urls, rollout.hosts_file and rollout.announce_dir"
        return [fail("servers", str(error), fix), *server_findings(urls)]
