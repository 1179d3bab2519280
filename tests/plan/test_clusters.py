"""The ready-made layouts: each is planned, dry-run and served as its comment says."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from egrc_mega.config.check import server_problems
from egrc_mega.config.load import load_config
from egrc_mega.convert.presets import PRESETS
from egrc_mega.launch.dry_run import dry_run
from egrc_mega.launch.plan import Question, plan_for
from egrc_mega.plan.plan import Plan

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs/r1_distill_qwen_7b.yaml"
FILES = sorted((ROOT / "configs/clusters").glob("*.yaml"))
GPUS = {"h100": "h100-80g", "h200": "h200-141g"}
SLACK = 3 * 2**30
"""Bytes that a layout leaves free beside what the plan reserves anyway."""


@dataclass(frozen=True)
class Cluster:
    """What a file's name says."""

    file: Path
    card: str
    num_gpus: int
    is_colocated: bool

    @classmethod
    def of(cls, file: Path) -> "Cluster":
        card, number, kind = file.stem.split("_")
        return cls(file, card, int(number), kind == "colocated")

    @property
    def trainer_nodes(self) -> int:
        return max(1, self.num_gpus // 8 if self.is_colocated else self.num_gpus // 16)

    @property
    def processes(self) -> int:
        """On each of them."""
        return 4 if self.num_gpus == 8 and not self.is_colocated else 8

    @property
    def comment(self) -> str:
        lines = self.file.read_text().splitlines()
        return "\n".join(line for line in lines if line.startswith("#"))


CLUSTERS = [Cluster.of(file) for file in FILES]
every_cluster = pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.file.stem)


def plan_of(cluster: Cluster) -> Plan:
    return plan_for(Question([RECIPE, cluster.file], [], cluster.num_gpus, GPUS[cluster.card]))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that give the recipe a model's config.json and data with two problems."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "config.json").write_text(json.dumps(PRESETS["deepseek-r1-distill-qwen-7b"]))
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"problem": f"What is {n} + 1?", "answer": str(n + 1)}) + "\n" for n in (1, 2)))
    return [f"model.path={folder}", f"data.train={data}", f"evaluation.data={data}", f"run.dir={folder / 'run'}"]


def test_there_is_one_for_every_size_card_and_kind() -> None:
    found = {(cluster.card, cluster.num_gpus, cluster.is_colocated) for cluster in CLUSTERS}
    assert found == {(card, size, kind) for card in GPUS for size in (8, 16, 32) for kind in (True, False)}


@every_cluster
def test_a_cluster_fits_with_room_to_spare(cluster: Cluster) -> None:
    plan = plan_of(cluster)
    assert plan.problems == []
    assert plan.split.is_colocated == cluster.is_colocated
    assert plan.split.trainer == cluster.trainer_nodes * cluster.processes
    assert plan.split.rollout == (cluster.num_gpus if cluster.is_colocated else cluster.num_gpus // 2)
    assert plan.memory
    peaks = [rank.peak for rank in plan.memory.ranks] + [plan.memory.colocated_peak or 0]
    assert max(peaks) + SLACK <= plan.gpu.memory_bytes
    # a server holds everything that it is asked for at a time
    assert plan.memory.server.kv_tokens > 8192


@every_cluster
def test_what_a_clusters_comment_promises_is_what_the_plan_says(cluster: Cluster) -> None:
    plan = plan_of(cluster)
    told = re.search(r"egrc plan: steps of (\d+) and (\d+) s, (\d+) hours, (\d+) GPU hours", cluster.comment)
    assert told
    times = [stage.time.total for stage in plan.stages]
    assert [float(part) for part in told.groups()] == pytest.approx([*times, plan.hours, plan.gpu_hours], abs=0.6)


@every_cluster
def test_a_cluster_runs_dry_as_its_comment_starts_it(cluster: Cluster, here: list[str]) -> None:
    page = dry_run([RECIPE, cluster.file], here, num_nodes=cluster.trainer_nodes, num_processes=cluster.processes)
    world = cluster.trainer_nodes * cluster.processes
    assert f"{world} processes = tensor " in page
    if cluster.num_gpus == 8:
        command = f"egrc train -c configs/{RECIPE.name} -c configs/clusters/{cluster.file.name}"
        assert f"{command} --nproc-per-node {cluster.processes}" in cluster.comment
    else:
        assert f"NNODES={cluster.trainer_nodes} " in cluster.comment
        assert f'CONFIG="configs/{RECIPE.name} configs/clusters/{cluster.file.name}"' in cluster.comment


@pytest.mark.parametrize("cluster", [c for c in CLUSTERS if c.num_gpus > 8], ids=lambda cluster: cluster.file.stem)
def test_the_servers_of_several_nodes_are_started_as_the_comment_says(cluster: Cluster, here: list[str]) -> None:
    overrides = re.findall(r"--set (rollout\.\S+)", cluster.comment)
    serving = load_config([RECIPE, cluster.file], [*here, *overrides]).config
    assert [str(problem) for problem in server_problems(serving)] == []
    assert serving.rollout.server == "sglang" and serving.rollout.host == "0.0.0.0"
    waiting = load_config([RECIPE, cluster.file], here).config.rollout
    nodes = cluster.num_gpus // 8 if cluster.is_colocated else cluster.trainer_nodes
    assert waiting.num_servers == nodes * serving.rollout.num_servers
    # the servers of a node have its GPUs, from the first one on
    assert serving.rollout.num_servers * serving.rollout.tensor_parallel_size == 8


@every_cluster
def test_every_choice_of_a_cluster_has_its_source(cluster: Cluster) -> None:
    text = cluster.file.read_text()
    for line in text.splitlines():
        if re.match(r"  (tensor_\w+|sglang_args|transport|max_tokens_per_micro_batch|offload_optimizer):", line):
            assert " # " in line, line
    assert re.search(r"slime scripts/\S+\.sh|verl examples/\S+\.sh", text)
