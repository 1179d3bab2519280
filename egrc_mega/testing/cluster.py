"""Stand-ins for the commands of Slurm and Kubernetes: they start the processes that a cluster would, on this machine.

`write_commands` makes a folder for PATH. What the commands are given is checked as far as it is used.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from egrc_mega.testing import forked

SECRETS = "EGRC_TEST_SECRETS"
"""Variable with what the cluster's secrets hold, the same for every key."""
PORT = "EGRC_TEST_PORT"
"""Variable with the port that the stand-in of the training operator gives to the pods of a job."""
LOOPBACK = "127.0.0.1"


def write_commands(folder: Path) -> dict[str, str]:
    """Make `srun`, `scontrol` and `kubectl`, and an interpreter that forks; the variables that have them found."""
    folder.mkdir()
    for name in ("srun", "scontrol", "kubectl"):
        _write(folder / name, "egrc_mega.testing.cluster", name)
    _write(folder / "python", "egrc_mega.testing.interpreter", forked.nursery_address())
    return {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": str(folder / "python")}


def _write(file: Path, module: str, argument: str) -> None:
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m {module} "{argument}" "$@"\n')
    file.chmod(0o755)


def srun(arguments: Sequence[str]) -> int:
    """A task on each node, in the order of the list; the highest exit code."""
    parser = argparse.ArgumentParser(prog="srun")
    for option in ("--nodes", "--ntasks", "--ntasks-per-node"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("--nodelist", required=True)
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("--export", choices=["ALL"])
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    nodes = given.nodelist.split(",")
    assert (given.nodes, given.ntasks, given.ntasks_per_node) == (len(nodes), len(nodes), 1)
    places = [{"SLURM_PROCID": str(rank), "SLURMD_NODENAME": node} for rank, node in enumerate(nodes)]
    return _outcome([subprocess.Popen(given.command, env=os.environ | place) for place in places])


def scontrol(arguments: Sequence[str]) -> int:
    """Spell out a list of nodes, or say that a job is in the queue again."""
    if arguments[:2] == ["show", "hostnames"]:
        print("\n".join(arguments[2].split(",")))
    else:
        assert arguments[0] == "requeue"
        print(f"requeued {arguments[1]}", flush=True)
    return 0


def kubectl(arguments: Sequence[str]) -> int:
    """Start the pods of a file's PyTorchJob and Deployment, end these when the job is over; the job's exit code."""
    assert arguments[:2] == ["apply", "-f"]
    documents = {each["kind"]: each["spec"] for each in yaml.safe_load_all(Path(arguments[2]).read_text())}
    serving = documents["Deployment"]
    others = [_pod(serving["template"], {}) for _ in range(serving["replicas"])]
    replicas = documents["PyTorchJob"]["pytorchReplicaSpecs"]
    templates = [replicas[kind]["template"] for kind in ("Master", "Worker") for _ in range(replicas[kind]["replicas"])]
    pods = [_pod(template, variables) for template, variables in zip(templates, _ranks(len(templates)), strict=True)]
    code = _outcome(pods)
    for other in others:
        other.terminate()
    _outcome(others)
    return code


def _ranks(size: int) -> Iterator[dict[str, str]]:
    """What Kubeflow's training operator tells each pod (v1, pkg/controller.v1/pytorch/envvar.go)."""
    for rank in range(size):
        common = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": os.environ[PORT]}
        names = {"NNODES": str(size), "NODE_RANK": str(rank), **common}
        yield (
            common
            | {f"PET_{name}": value for name, value in names.items()}
            | {
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
            }
        )


def _pod(template: dict[str, Any], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    """The process of its only container; of the environment it has PATH and Python's variables, as an image would."""
    (container,) = template["spec"]["containers"]
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or name.startswith("PYTHON")}
    own = {entry["name"]: _value(entry) for entry in container["env"]}
    return subprocess.Popen(container["command"], cwd=container["workingDir"], env=kept | variables | own)


def _value(entry: dict[str, Any]) -> str:
    source = entry.get("valueFrom", {})
    if "secretKeyRef" in source:
        return os.environ[SECRETS]
    return LOOPBACK if "fieldRef" in source else entry["value"]


def _outcome(processes: "Sequence[subprocess.Popen[bytes]]") -> int:
    """Wait for all, pass SIGTERM on to each; the highest exit code."""

    def end(number: int, _frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, end)
    return max(code if code >= 0 else 128 - code for code in [process.wait() for process in processes])


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"srun": srun, "scontrol": scontrol, "kubectl": kubectl}

if __name__ == "__main__":
    sys.exit(COMMANDS[sys.argv[1]](sys.argv[2:]))
