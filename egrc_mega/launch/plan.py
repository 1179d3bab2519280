"""`egrc plan`: what a configuration needs on so many GPUs of a kind, told before anything starts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError
from egrc_mega.plan.as_json import as_json
from egrc_mega.plan.gpus import find_gpu
from egrc_mega.plan.model_facts import find_model
from egrc_mega.plan.page import page
from egrc_mega.plan.plan import Plan, make_plan
from egrc_mega.plan.scaling import Law, curve, law
from egrc_mega.plan.scaling_figure import scaling_figure
from egrc_mega.plan.search import Search
from egrc_mega.plan.search_page import candidate_as_json, search_as_json, search_page
from egrc_mega.plan.split import choose_split
from egrc_mega.plan.workload import stage_works


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody wants to know."""

    config_files: Sequence[Path]
    overrides: Sequence[str]
    num_gpus: int
    gpu: str
    rollout_gpus: int | None = None
    mean_tokens: float | None = None
    prompt_tokens: int | None = None


def search_for(question: Question) -> Search:
    """The layouts of a configuration; its own among them.

    Raises:
        ConfigError, ModelError: the configuration, the model or the question itself cannot be used.
    """
    gpu = find_gpu(question.gpu)
    config = load_config(list(question.config_files), list(question.overrides)).config
    model = find_model(config.model.path)
    split = choose_split(config.rollout, question.num_gpus, question.rollout_gpus)
    return Search(config, model, gpu, split, stage_works(config, question.mean_tokens, question.prompt_tokens))


def plan_for(question: Question) -> Plan:
    """The plan of a configuration as it is; raises as `search_for`."""
    search = search_for(question)
    return make_plan(search.config, search.model, search.gpu, search.split, search.works)


def show_plan(question: Question, *, in_json: bool) -> None:
    """Print the plan of a configuration.

    Raises:
        ConfigError: the layout is impossible; what is known of it has been printed. The message has the nearest that
            works.
    """
    search = search_for(question)
    plan = make_plan(search.config, search.model, search.gpu, search.split, search.works)
    nearest = search.nearest() if plan.problems else None
    found = as_json(plan)
    if nearest:
        found["nearest"] = candidate_as_json(search, nearest)
    print(json.dumps(found, indent=1) if in_json else page(plan))
    if not plan.problems:
        return
    if nearest is None:
        raise ConfigError("\n".join([*plan.problems, f"no layout of it works on {search.gpu.name}; take larger GPUs"]))
    options = " ".join(nearest.choice.options(search.config, search.split))
    num_gpus = nearest.plan.split.num_gpus
    raise ConfigError("\n".join([*plan.problems, f"the nearest that works: --gpus {num_gpus} {options}".rstrip()]))


def show_search(question: Question, *, in_json: bool) -> None:
    """Print the best layouts and splits.

    Raises:
        ConfigError: none fits.
    """
    search = search_for(question)
    works, num_tried = search.ranked()
    if in_json:
        print(json.dumps(search_as_json(search, works, num_tried), indent=1))
    else:
        print(search_page(search, works, num_tried))
    if not works:
        nearest = search.nearest()
        told = f"{nearest.plan.split.num_gpus} do" if nearest else "no number of them does"
        raise ConfigError(f"--gpus: {search.split.num_gpus} {search.gpu.name} hold no layout of it; {told}")


def scaling_of_the_recipe(root: Path) -> tuple[Law, str]:
    """The law and the figure of docs/plan.md: the second stage of the 7B recipe, whose steps are the longest."""
    plan = plan_for(Question([root / "configs/r1_distill_qwen_7b.yaml"], [], 8, "h100-80g"))
    stage = plan.stages[-1].stage
    points = curve(plan, stage)
    found = law(plan, stage, points)
    title = (
        f"A step of R1-Distill-Qwen-7B on 8 to 1,024 H100: {stage.work.num_responses} responses of at most "
        f"{stage.longest} tokens, {stage.work.lengths.mean:.0f} on average"
    )
    return found, scaling_figure(points, found, title)
