"""The recipes plan for the worlds they are meant for, and contradictions are told before anything starts."""

import json
import re
from pathlib import Path

import pytest

from egrc_mega.convert.presets import PRESETS
from egrc_mega.errors import EgrcError, ModelError
from egrc_mega.launch import dry_run as module
from egrc_mega.launch.dry_run import dry_run

pytestmark = pytest.mark.long_file

RECIPES = {
    "r1_distill_qwen_7b": "deepseek-r1-distill-qwen-7b",
    "r1_distill_qwen_1p5b": "deepseek-r1-distill-qwen-1.5b",
}
SEVEN = "r1_distill_qwen_7b"


@pytest.fixture
def settings(root: Path, tmp_path: Path) -> dict[str, list[str]]:
    """For each recipe: a folder with the model's config.json and no weights, and data that exists."""
    assets, found = root / "egrc_mega/miniature/assets", {}
    for recipe, preset in RECIPES.items():
        folder = tmp_path / preset
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(PRESETS[preset]))
        data = [f"data.train={assets / 'train.jsonl'}", f"evaluation.data={assets / 'eval.jsonl'}"]
        found[recipe] = [f"model.path={folder}", f"run.dir={tmp_path / 'run'}", *data]
    return found


def plan(root: Path, recipe: str, overrides: list[str], num_nodes: int = 1) -> str:
    return dry_run([root / f"configs/{recipe}.yaml"], overrides, num_nodes=num_nodes, num_processes=8)


def test_the_line_of_a_node_works_where_it_was_asked_for_and_without_a_repository(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines() -> list[str]:
        return list(module._commands([Path("a b.yaml")], ["run.seed=2"], 2, 4))

    monkeypatch.chdir(root)
    assert lines()[1].endswith("CONFIG='a b.yaml' bash scripts/launch/torchrun_7b.sh --set run.seed=2")
    monkeypatch.chdir(tmp_path)
    assert f" bash {root}/scripts/launch/torchrun_7b.sh --set" in lines()[1]
    monkeypatch.setattr(module, "SCRIPT", tmp_path / "none")
    assert lines()[1] == (
        "node 1: egrc train --config 'a b.yaml' --supervise --nproc-per-node 4 --nnodes 2 --node-rank 1 "
        "--master-addr <address of node 0> --set run.seed=2"
    )


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("num_nodes", "world_size"), [(1, 8), (2, 16), (4, 32)])
def test_a_recipe_plans_for_eight_sixteen_and_thirty_two_gpus(
    recipe: str, num_nodes: int, world_size: int, root: Path, settings: dict, tmp_path: Path
) -> None:
    page = plan(root, recipe, settings[recipe], num_nodes)
    tensor = 4 if recipe == SEVEN else 1
    assert f"{world_size} processes = tensor {tensor} x pipeline 1 x data {world_size // tensor}" in page
    assert "(no weights there yet)" in page
    assert f"times: egrc plan {root}/configs/{recipe}.yaml --gpus {world_size}\n" in page
    assert "compress: 200 steps of 128 prompts x 8 = 1024 responses of at most 4096 tokens" in page
    commands = [line for line in page.splitlines() if line.startswith("node ")]
    assert len(commands) == num_nodes
    assert all(f"NODE_RANK={i} NPROC_PER_NODE=8" in line for i, line in enumerate(commands))
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_parameters_and_bytes_of_a_rank(root: Path, settings: dict) -> None:
    page = plan(root, SEVEN, settings[SEVEN])
    count = 1_904_057_344
    assert f"rank     pipeline stage 0, layers 0 to 27: {count:,} parameters" in page
    # bf16 weights, float32 gradients, masters and two moments shared by two data-parallel ranks
    weights, gradients, optimizer = (count * size / 2**30 for size in (2, 4, 12 / 2))
    assert f"{weights:.1f} GiB weights + {gradients:.1f} gradients + {optimizer:.1f} optimizer" in page


def test_context_ranks_share_the_optimizer_and_an_offloaded_one_leaves_the_device(root: Path, settings: dict) -> None:
    overrides = ["megatron.context_parallel_size=2", "policy.offload_optimizer=true"]
    page = plan(root, SEVEN, [*settings[SEVEN], *overrides], num_nodes=2)
    assert "16 processes = tensor 4 x pipeline 1 x context 2 x data 2" in page
    weights, gradients, optimizer = (1_904_057_344 * size / 2**30 for size in (2, 4, 12 / 4))
    assert f"+ {optimizer:.1f} optimizer (on the host) = {weights + gradients:.1f} GiB" in page


def test_spare_servers_their_gpus_and_what_waits_for_them_on_the_disk_are_told(root: Path, settings: dict) -> None:
    servers = ["rollout.server=sglang", "rollout.urls=[]", "rollout.gpus=[8,9]", "rollout.num_servers=2"]
    spare = [*settings[SEVEN], *servers, "evaluation.spare={num_servers: 2, max_pending: 3}", "evaluation.best={}"]
    page, plain = plan(root, SEVEN, spare), plan(root, SEVEN, settings[SEVEN])
    told = "spare    2 sglang on cuda, GPUs 10-11: evaluate beside training, at most 3 points awaited"
    assert told in page.splitlines() and "spare " not in plain
    (checkpoints, more), (before, less) = (
        re.search(r"GB, (\d+) of them, .* ([\d.]+) GB$", text, re.M).groups()  # type: ignore[union-attr]
        for text in (page, plain)
    )
    weights, checkpoint = (7_615_616_512 * size / 1e9 for size in (2, 14))
    # each point keeps its weights, and its step, which may be the best
    assert int(checkpoints) == int(before) + 1 + 3
    assert float(more) - float(less) == pytest.approx(4 * checkpoint + 3 * weights, abs=0.2)


def test_another_model_than_the_recipes_is_an_error(root: Path, settings: dict) -> None:
    with pytest.raises(ModelError, match=r"model\.expects\.hidden_size: 3584, but .*config\.json says 1536"):
        plan(root, SEVEN, settings["r1_distill_qwen_1p5b"])


@pytest.mark.parametrize("changes", [{"rope_theta": 1e6}, {"num_hidden_layers": 27}])
def test_a_config_json_that_contradicts_the_recipe_is_an_error(
    changes: dict, root: Path, settings: dict, tmp_path: Path
) -> None:
    file = tmp_path / "deepseek-r1-distill-qwen-7b/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    [name] = changes
    with pytest.raises(ModelError, match=rf"model\.expects\.{name}"):
        plan(root, SEVEN, settings[SEVEN])


def test_an_impossible_layout_is_told_with_everything_else(root: Path, settings: dict) -> None:
    sizes = ["megatron.tensor_model_parallel_size=3", "megatron.pipeline_model_parallel_size=5"]
    with pytest.raises(EgrcError) as error:
        plan(root, SEVEN, [*settings[SEVEN], *sizes, "data.train=/nowhere.jsonl"])
    for part in (
        "3 does not divide the 28 attention heads",
        "5 stages cannot share 28 layers",
        "/nowhere.jsonl does not exist",
        "no multiple of tensor x pipeline x context parallel size 15",
    ):
        assert part in str(error.value)
