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


def plan_for(question: Question) -> Plan:
    """The plan of a configuration.

    Raises:
        ConfigError, ModelError: the configuration, the model or the question itself cannot be used.
    """
    gpu = find_gpu(question.gpu)
    config = load_config(list(question.config_files), list(question.overrides)).config
    model = find_model(config.model.path)
    split = choose_split(config.rollout, question.num_gpus, question.rollout_gpus)
    works = stage_works(config, question.mean_tokens, question.prompt_tokens)
    return make_plan(config, model, gpu, split, works)


def show_plan(question: Question, *, in_json: bool) -> None:
    """Print the plan of a configuration.

    Raises:
        ConfigError: the layout is impossible; what is known of it has been printed.
    """
    plan = plan_for(question)
    print(json.dumps(as_json(plan), indent=1) if in_json else page(plan))
    if plan.problems:
        raise ConfigError("\n".join(plan.problems))


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
