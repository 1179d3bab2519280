"""The launch scripts, run from end to end: stand-ins for Slurm's and Kubernetes' commands start the processes."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from egrc_mega.launch.status import look
from egrc_mega.launch.stop import stop
from egrc_mega.testing.cluster import PORT, SECRETS, write_commands
from egrc_mega.testing.runs import events

pytestmark = pytest.mark.long_file

STAGE = {"method": "compress", "clip_len": 72, "rollout": {"n": 4}, "optim": {"lr": 1e-4}}
SMALL = (
    "rollout.prompts_per_step=4",
    "evaluation.num_problems=2",
    "evaluation.max_new_tokens=20",
    "evaluation.temperatures=[1.0]",
    "grading.num_workers=1",
)
PATIENCE_S = 240
Script = Callable[..., "subprocess.Popen[str]"]


def settings(run: Path, steps: int) -> str:
    """Of a small run, as the scripts take them."""
    stages = json.dumps([STAGE | {"steps": steps}], separators=(",", ":"))
    return " ".join([*SMALL, f"run.dir={run}", f"stages={stages}"])


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_commands(tmp_path_factory.mktemp("launchers") / "bin")


@pytest.fixture
def start(commands: dict[str, str], root: Path, free_port: int) -> Script:
    """Starts a command with the stand-ins, the small configuration and variables."""

    def start(*command: str, **variables: str) -> "subprocess.Popen[str]":
        own = {"NPROC_PER_NODE": "1", "MASTER_PORT": str(free_port), PORT: str(free_port)}
        own |= {"CONFIG": str(root / "configs/quickstart.yaml")}
        environment = os.environ | commands | own | variables
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/"
        )

    return start


def wait_for_a_step(run: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ((run / "metrics.jsonl").exists() and events(run, "step")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def end(process: "subprocess.Popen[str]", expected: int) -> str:
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == expected, output
    return output


def test_torchrun_starts_the_shares_of_two_nodes_that_train_together_to_the_end(
    start: Script, root: Path, tmp_path: Path
) -> None:
    script, run = str(root / "scripts/launch/torchrun_7b.sh"), tmp_path / "run"
    common = {"NNODES": "2", "SETTINGS": settings(run, 1)}
    nodes = [start("bash", script, "--set", "run.seed=5", NODE_RANK=str(rank), **common) for rank in range(2)]
    outputs = [end(node, 0) for node in nodes]
    assert (run / "export/model.safetensors").exists()
    assert "stage compress begins" in outputs[0] and " 1/1  acc " in outputs[0] and " 1/1  acc " not in outputs[1]
    assert yaml.safe_load((run / "config.yaml").read_text())["run"]["seed"] == 5


def test_slurm_trains_and_serves_until_its_time_is_nearly_over_and_queues_the_job_again(
    start: Script, root: Path, tmp_path: Path
) -> None:
    run, servers = tmp_path / "run", tmp_path / "servers"
    job = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "127.0.0.1,127.0.0.2,127.0.0.3", "SLURM_SUBMIT_DIR": str(root)}
    serving = {"SERVER": "embedded", "SERVERS_PER_NODE": "1", "SERVE_HOST": "127.0.0.1", "ANNOUNCE_DIR": str(servers)}
    more = {"REQUEUE": "1", "SETTINGS": settings(run, 100), "SERVE_SETTINGS": f"run.dir={run}"}
    process = start("bash", str(root / "scripts/launch/slurm_7b.sbatch"), **job, **serving, **more)
    wait_for_a_step(run, process)
    status = look(run)
    assert [len(pids) for pids in status.hosts.values()] == [2] and len(status.servers) == 1
    process.send_signal(signal.SIGTERM)
    output = end(process, 75)
    assert re.search(r"stopped by SIGTERM after step \d+, which is committed", output)
    assert output.splitlines()[-1] == "requeued 42"
    assert look(run).state == "stopped" and list(servers.iterdir()) == []


def test_slurm_refuses_a_job_that_leaves_no_node_to_train_on(start: Script, root: Path) -> None:
    job = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "a,b", "SLURM_SUBMIT_DIR": str(root), "ROLLOUT_NODES": "2"}
    output = end(start("bash", str(root / "scripts/launch/slurm_7b.sbatch"), **job), 2)
    assert output == ("slurm_7b.sbatch: ROLLOUT_NODES=2 leave no node of 2 to train on; ask for more with --nodes\n")


def manifest(root: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((root / "scripts/launch/k8s_7b.yaml").read_text()))


def changed(entries: list[dict[str, Any]], **values: str) -> list[dict[str, Any]]:
    """A container's variables with other values; each of them is there."""
    assert values.keys() <= {entry["name"] for entry in entries}
    return [entry | {"value": values[entry["name"]]} if entry["name"] in values else entry for entry in entries]


def test_kubernetes_trains_and_serves_until_the_run_is_asked_to_stop(start: Script, root: Path, tmp_path: Path) -> None:
    run, servers, config = tmp_path / "run", tmp_path / "servers", str(root / "configs/quickstart.yaml")
    job, serving = copy.deepcopy(manifest(root))
    external = f"rollout.server=external rollout.urls=[] rollout.announce_dir={servers} rollout.num_servers=1"
    trainer = {"NPROC_PER_NODE": "1", "SETTINGS": f"{settings(run, 100)} {external}", "GLOO_SOCKET_IFNAME": "lo"}
    server = {"SERVER": "embedded", "SERVERS_PER_NODE": "1", "ANNOUNCE_DIR": str(servers)}
    serving["spec"]["replicas"] = 1
    pods = [(job["spec"]["pytorchReplicaSpecs"][kind]["template"], trainer) for kind in ("Master", "Worker")]
    for template, values in [*pods, (serving["spec"]["template"], server | {"SERVE_SETTINGS": f"run.dir={run}"})]:
        (container,) = template["spec"]["containers"]
        container["workingDir"] = str(root)
        container["env"] = changed(container["env"], CONFIG=config, PYTHON="python", **values)
    file = tmp_path / "k8s.yaml"
    file.write_text(yaml.safe_dump_all([job, serving]))
    process = start("kubectl", "apply", "-f", str(file), **{SECRETS: "of-the-pods"})
    wait_for_a_step(run, process)
    assert "is committed" in stop(run)
    assert "stopped by egrc stop after step" in end(process, 75)
    assert look(run).state == "stopped" and list(servers.iterdir()) == []


def test_the_kubernetes_file_keeps_the_schema(root: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: pip install 'egrc-mega[dev]'")
    schema = json.loads((root / "tests/launch/pytorchjob.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    job, serving = manifest(root)
    assert [list(validator.iter_errors(each)) for each in (job, serving)] == [[], []]

    def spoil(document: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        spoilt = copy.deepcopy(document)
        change(spoilt["spec"])
        return spoilt

    master = lambda spec: spec["pytorchReplicaSpecs"]["Master"]  # noqa: E731
    container = lambda spec: master(spec)["template"]["spec"]["containers"][0]  # noqa: E731
    wrong = [
        spoil(job, lambda spec: spec.update(pytorchReplicaSpec={})),
        spoil(job, lambda spec: spec["pytorchReplicaSpecs"].pop("Master")),
        spoil(job, lambda spec: master(spec).update(replicas=2)),
        spoil(job, lambda spec: master(spec).update(restartPolicy="Sometimes")),
        spoil(job, lambda spec: container(spec).update(name="trainer")),
        spoil(job, lambda spec: container(spec)["env"].append({"name": "A", "value": 1})),
        spoil(job, lambda spec: container(spec).update(comand=[])),
        spoil(job, lambda spec: container(spec)["resources"]["limits"].update({"nvidia.com/gpu": -1})),
        spoil(serving, lambda spec: spec.update(replicas="two")),
    ]
    assert [not validator.is_valid(each) for each in wrong] == [True] * len(wrong)


def test_the_kubernetes_file_starts_the_launch_scripts_with_variables_that_they_know(root: Path) -> None:
    job, serving = manifest(root)
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert replicas["Master"] == replicas["Worker"]
    for template in (replicas["Master"]["template"], serving["spec"]["template"]):
        (container,) = template["spec"]["containers"]
        script = (root / container["command"][1]).read_text()
        documented = set(re.findall(r"[A-Z][A-Z0-9_]+", "".join(re.findall(r"^#.*$", script, re.M))))
        documented |= set(re.findall(r"\$\{([A-Z0-9_]+):-", script))
        assert {entry["name"] for entry in container["env"]} <= documented
        names = {mount["name"] for mount in container["volumeMounts"]}
        assert names == {volume["name"] for volume in template["spec"]["volumes"]}
    labels = serving["spec"]["template"]["metadata"]["labels"]
    assert serving["spec"]["selector"]["matchLabels"] == labels


DIRECTIVES = {
    "job-name": r"[\w.-]+",
    "nodes": r"[1-9]\d*(-[1-9]\d*)?",
    "ntasks-per-node": "1",
    "gpus-per-node": r"([a-z]\w*:)?[1-9]\d*",
    "cpus-per-task": r"[1-9]\d*",
    "mem": r"\d+[KMGT]?",
    "exclusive": "",
    "time": r"(\d+-)?\d{1,2}:\d{2}:\d{2}",
    "signal": r"B:TERM@\d+",
    "open-mode": "append",
    "output": r"[\w%./-]+",
}
"""Options of sbatch that the script gives, and what each takes."""


def test_slurm_reads_every_directive(root: Path) -> None:
    lines = (root / "scripts/launch/slurm_7b.sbatch").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    given = {}
    for line in (line for line in lines if line.startswith("#SBATCH")):
        found = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line)
        assert found, line
        given[found[1]] = found[2] or ""
    assert given.keys() == DIRECTIVES.keys()
    for name, value in given.items():
        assert re.fullmatch(DIRECTIVES[name], value), (name, value)
    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(n < first_command for n, line in enumerate(lines) if line.startswith("#SBATCH"))
    # a run that is told to stop has the time that Slurm gives to finish a step and to commit
    assert int(given["signal"].partition("@")[2]) >= 120


def test_shellcheck_finds_nothing_in_any_script(root: Path) -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if shellcheck is None:
        pytest.skip("shellcheck is not installed: pip install 'egrc-mega[dev]'")
    scripts = sorted(str(file) for pattern in ("*.sh", "*.sbatch") for file in root.glob(f"scripts/**/{pattern}"))
    scripts += sorted(map(str, root.glob("benchmarks/*.sh")))
    command = [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", "--severity=style", *scripts]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")
