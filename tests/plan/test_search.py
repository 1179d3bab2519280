"""The search: what it finds works, is best among what it looked at, and its options lead to the same plan."""

import json
import shlex
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from egrc_mega.launch.plan import Question, plan_for, search_for
from egrc_mega.plan.choice import Choice
from egrc_mega.plan.search import Candidate, Search, best_of_splits
from egrc_mega.testing import forked


def question(root: Path, *overrides: str, gpus: int = 16, **rest: object) -> Question:
    return Question([root / "configs/r1_distill_qwen_7b.yaml"], overrides, gpus, "h100-80g", **rest)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def search(root: Path) -> Search:
    return search_for(question(root))


@pytest.fixture(scope="module")
def works(search: Search) -> list[Candidate]:
    return search.ranked()[0]


def parsed(options: list[str]) -> tuple[list[str], int | None]:
    """Overrides, and the servers' GPUs, as the command line would read them."""
    words = shlex.split(" ".join(options))
    pairs = list(zip(words[::2], words[1::2], strict=True))
    servers = [int(value) for name, value in pairs if name == "--rollout-gpus"]
    return [value for name, value in pairs if name == "--set"], servers[0] if servers else None


def test_the_shortest_recipes_stand_first(works: list[Candidate]) -> None:
    hours = [candidate.plan.hours for candidate in works]
    assert min(hours) >= hours[0] * 0.98
    # nowhere does one stand before another that is clearly shorter
    assert all(later >= earlier * 0.96 for earlier, later in pairwise(hours))
    assert all(not candidate.plan.problems for candidate in works)


def test_the_options_of_a_layout_lead_to_its_plan(root: Path, works: list[Candidate], search: Search) -> None:
    for candidate in (works[0], works[-1], *best_of_splits(works)):
        overrides, servers = parsed(candidate.choice.options(search.config, search.split))
        plan = plan_for(question(root, *overrides, rollout_gpus=servers))
        assert not plan.problems, overrides
        assert plan.hours == pytest.approx(candidate.plan.hours)
        assert Choice.of(plan.config, plan.split) == candidate.choice


def test_splits_and_colocated_servers_are_compared(works: list[Candidate]) -> None:
    best = best_of_splits(works)
    assert [candidate.plan.split.is_colocated for candidate in best][:2] == [True, False]
    sizes = [candidate.choice.rollout_gpus for candidate in best[1:]]
    assert sizes == sorted(set(sizes)) and {4, 8, 12} <= set(sizes)


def test_the_configuration_as_it_is_stands_among_them(works: list[Candidate], search: Search) -> None:
    own = [candidate for candidate in works if candidate.choice == search.own]
    assert len(own) == 1
    assert own[0].choice.options(search.config, search.split) == []


def test_nobody_offloads_the_optimizer_for_nothing(works: list[Candidate]) -> None:
    kept = {(c.choice.tensor, c.choice.pipeline, c.choice.recompute, c.choice.rollout_gpus, c.choice.server_tensor)
            for c in works if not c.choice.offloads_optimizer}  # fmt: skip
    for candidate in works:
        choice = candidate.choice
        if choice.offloads_optimizer:
            sizes = (choice.tensor, choice.pipeline, choice.recompute, choice.rollout_gpus, choice.server_tensor)
            assert sizes not in kept


@pytest.mark.parametrize(
    ("overrides", "gpus", "nearest"),
    [
        ([], 12, ["--rollout-gpus 4"]),
        (["megatron.tensor_model_parallel_size=8"], 16, ["--set megatron.tensor_model_parallel_size=4"]),
        (["policy.max_tokens_per_micro_batch=8192"], 16, ["--set policy.max_tokens_per_micro_batch=9216"]),
        (["policy.max_tokens_per_micro_batch=65536"], 16, ["--set policy.max_tokens_per_micro_batch=47104"]),
    ],
)
def test_the_nearest_layout_that_works_changes_little(
    overrides: list[str], gpus: int, nearest: list[str], root: Path
) -> None:
    search = search_for(question(root, *overrides, gpus=gpus))
    assert plan_for(question(root, *overrides, gpus=gpus)).problems
    found = search.nearest()
    assert found and not found.plan.problems
    assert found.choice.options(search.config, search.split)[: len(nearest)] == nearest


def test_where_none_works_on_these_gpus_more_are_looked_at(root: Path) -> None:
    search = search_for(question(root, "model.path=llama-3.3-70b", "model.expects={}", gpus=4))
    assert search.ranked()[0] == []
    found = search.nearest()
    assert found and found.plan.split.num_gpus in (8, 16, 32)


def test_the_command_prints_both_tables_and_the_same_as_json(root: Path) -> None:
    command = ["plan", str(root / "configs/r1_distill_qwen_7b.yaml"), "--gpus", "16", "--search"]
    told = forked.run([sys.executable, "-P", "-m", "egrc_mega.cli.main", *command])
    assert told.returncode == 0, told.stderr
    assert "the best of each split" in told.stdout and "layouts of 16 h100-80g" in told.stdout
    found = json.loads(forked.run([sys.executable, "-P", "-m", "egrc_mega.cli.main", *command, "--json"]).stdout)
    assert found["fit"] >= len(found["layouts"]) == 10
    assert " ".join(found["layouts"][0]["options"]) in told.stdout
    assert found["best_of_splits"][0]["colocated"]


def test_an_impossible_plan_names_the_nearest_that_works(root: Path) -> None:
    command = ["plan", str(root / "configs/r1_distill_qwen_7b.yaml"), "--gpus", "12", "--json"]
    told = forked.run([sys.executable, "-P", "-m", "egrc_mega.cli.main", *command])
    assert told.returncode == 2
    assert "egrc: error: the nearest that works: --gpus 12 --rollout-gpus 4" in told.stderr
    assert json.loads(told.stdout)["nearest"]["gpus"] == {"all": 12, "trainer": 8, "rollout": 4}


def test_servers_that_are_counted_are_changed_by_their_number(root: Path) -> None:
    sglang = ["rollout.server=sglang", "rollout.urls=[]", "rollout.num_servers=8"]
    search = search_for(question(root, *sglang))
    works, _tried = search.ranked()
    for candidate in best_of_splits(works):
        overrides, servers = parsed(candidate.choice.options(search.config, search.split))
        assert servers is None
        plan = plan_for(question(root, *sglang, *overrides))
        assert plan.hours == pytest.approx(candidate.plan.hours)


def test_layers_of_single_stages_are_forgotten_with_their_number_of_stages(root: Path) -> None:
    uneven = ["megatron.pipeline_model_parallel_size=3", "megatron.num_layers_in_first_pipeline_stage=8"]
    search = search_for(question(root, *uneven, "megatron.tensor_model_parallel_size=1", gpus=12))
    works, _tried = search.ranked()
    others = [candidate for candidate in works if candidate.choice.pipeline == 2]
    assert others
    options = others[0].choice.options(search.config, search.split)
    assert "--set megatron.num_layers_in_first_pipeline_stage=null" in options
