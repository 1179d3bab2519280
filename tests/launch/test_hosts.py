"""A run over three machines, which are network namespaces of this one: two train, the third serves.

The cable of the server is pulled while it has requests, and put in again. Beside it the same run on one machine.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from egrc_mega.launch.status import RunStatus, look
from egrc_mega.lock import Holder
from egrc_mega.observe.pulse import read_page
from egrc_mega.run_folder import LOCK, LOG
from egrc_mega.soak.laws import require_same_weights
from egrc_mega.testing.forked import popen
from egrc_mega.testing.hosts import Hosts, why_not
from egrc_mega.testing.runs import events, finish_run, start_run

pytestmark = pytest.mark.long_file

STAGES = [{"method": "compress", "steps": 2, "clip_len": 72, "rollout": {"n": 4}, "optim": {"lr": 1e-4}}]
SMALL = ("evaluation.num_problems=2", "evaluation.max_new_tokens=20", "evaluation.temperatures=[1.0]")
REQUEST_S = 600
"""Longest that a request may take: who waits for that has not kept the deadline of silence."""
NAMES = ("node0", "node1", "server")
KEY = {"EGRC_API_KEY": "of-three-machines"}
PATIENCE_S = 240


@dataclass(frozen=True)
class Runs:
    """Of the same seed."""

    alone: Path
    """On one machine, which nothing disturbs."""
    spread: Path
    """On three, one of which is cut off for a while."""
    seen: RunStatus
    """The second one while it went on."""


def wait_until(holds: Callable[[], bool], *processes: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    with Hosts(NAMES) as found:
        yield found


@pytest.fixture(scope="module")
def runs(hosts: Hosts, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    base = tmp_path_factory.mktemp("hosts")
    alone, spread, shared = base / "alone", base / "spread", base / "servers"
    server = serve(hosts, root, base, shared)
    try:
        wait_until(lambda: any(shared.glob("*.url")), server)
        nodes = [start_node(hosts, root, rank, spread, shared) for rank in range(2)]
        wait_until(lambda: phase_of(spread) == "collect, step 2", *nodes)
        seen = look(spread)
        hosts.pull_cable("server")
        wait_until(lambda: "is fenced" in (spread / LOG).read_text(), *nodes)
        hosts.plug_in("server")
        first = start_run(root, alone, "--nproc-per-node", "2", stages=STAGES, overrides=SMALL)
        for process in (*nodes, first):
            finish_run(process, timeout_s=PATIENCE_S)
    finally:
        server.terminate()
        server.communicate(timeout=60)
    return Runs(alone, spread, seen)


def serve(hosts: Hosts, root: Path, base: Path, shared: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "serve", "-c", str(root / "configs/quickstart.yaml")]
    for override in (
        f"run.dir={base / 'serve'}",
        f"rollout.host={hosts.address('server')}",
        f"rollout.announce_dir={shared}",
    ):
        command += ["--set", override]
    environment = os.environ | KEY | hosts.variables("server")
    return popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_node(hosts: Hosts, root: Path, rank: int, run: Path, shared: Path) -> "subprocess.Popen[str]":
    options = ("--nnodes", "2", "--node-rank", str(rank), "--master-addr", hosts.address("node0"))
    external = ("rollout.server=external", f"rollout.announce_dir={shared}")
    patience = ("rollout.silence_timeout_s=1", f"rollout.request_timeout_s={REQUEST_S}")
    variables = KEY | hosts.variables(f"node{rank}")
    overrides = (*SMALL, *external, *patience)
    return start_run(root, run, *options, stages=STAGES, overrides=overrides, variables=variables)


def phase_of(run: Path) -> str:
    """What rank 0 is at, as everybody on its machine can read; nothing while it is not there."""
    with suppress(OSError):
        holder = Holder.read((run / LOCK).read_text())
        for link in Path(f"/proc/{holder.pid}/fd").iterdir() if holder else ():
            if found := read_page(holder.pid, int(link.name)):
                return found[0].phase
    return ""


def test_a_run_over_three_machines_ends_with_bitwise_the_weights_of_one_machine(runs: Runs) -> None:
    require_same_weights(runs.spread, runs.alone)


def test_a_server_whose_link_goes_down_is_fenced_for_its_silence_and_serves_again(runs: Runs) -> None:
    (_, step) = events(runs.spread, "step")
    fenced, again = step["server_events"]
    assert fenced.startswith("server 0 is fenced: http://10.213.0.3:") and "fell silent" in fenced
    assert again.startswith("server 0 serves again, at http://10.213.0.3:")
    assert step["lost_requests"] > 0
    assert events(runs.alone, "step")[1]["lost_requests"] == 0


def test_no_sample_is_lost_with_the_link(runs: Runs) -> None:
    alone, spread = (events(run, "step") for run in (runs.alone, runs.spread))
    for field in ("groups", "tokens", "length", "reward", "kept", "truncated", "loss", "grad_norm", "refused_groups"):
        assert [step[field] for step in spread] == [step[field] for step in alone], field
    assert [step["groups"] for step in spread] == [4, 4]


def test_status_names_the_machines_of_ranks_and_servers(runs: Runs) -> None:
    assert runs.seen.state == "running" and str(runs.seen.holder).endswith(" on node0")
    assert {host: len(pids) for host, pids in runs.seen.hosts.items()} == {"node0": 1, "node1": 1}
    assert [url.rpartition(":")[0] for url in runs.seen.servers] == ["http://10.213.0.3"]
    assert look(runs.spread).state == "finished"
