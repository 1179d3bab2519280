"""What a search has found: for people, and as plain values."""

from collections.abc import Iterator
from typing import Any

from egrc_mega.plan.search import Candidate, Search, best_of_splits

SHOWN = 10


def search_page(search: Search, works: list[Candidate], num_tried: int) -> str:
    """The best layouts, one a line, each with what to add to the command to have it."""
    return "\n".join(_lines(search, works, num_tried))


def _lines(search: Search, works: list[Candidate], num_tried: int) -> Iterator[str]:
    yield f"{num_tried} layouts of {search.split.num_gpus} {search.gpu.name}, of which {len(works)} fit; best first"
    stages = [each.name for each in search.works]
    yield f"{'hours':>7} {'GPU h':>7}  " + "  ".join(f"{name + ' s':>10}" for name in stages) + "  how"
    own = search.own
    yield from (_line(search, candidate) for candidate in works[:SHOWN])
    yield ""
    yield "the best of each split"
    yield from (f"{_line(search, each)}  ({_split(each)})" for each in best_of_splits(works))
    place = next((number for number, each in enumerate(works, 1) if each.choice == own), None)
    if place is not None and place > SHOWN:
        yield f"the configuration as it is: place {place}, {works[place - 1].plan.hours:.1f} hours"
    if place is None:
        yield "the configuration as it is: does not fit"


def _line(search: Search, candidate: Candidate) -> str:
    plan = candidate.plan
    times = "  ".join(f"{stage.time.total:>10.1f}" for stage in plan.stages)
    options = " ".join(candidate.choice.options(search.config, search.split)) or "as it is"
    return f"{plan.hours:>7.1f} {plan.gpu_hours:>7.0f}  {times}  {options}"


def _split(candidate: Candidate) -> str:
    split = candidate.plan.split
    return "colocated" if split.is_colocated else f"{split.trainer} train, {split.rollout} serve"


def search_as_json(search: Search, works: list[Candidate], num_tried: int) -> dict[str, Any]:
    """The same for programs; `options` is what to add to the command."""
    return {
        "gpu": search.gpu.name,
        "gpus": search.split.num_gpus,
        "tried": num_tried,
        "fit": len(works),
        "layouts": [candidate_as_json(search, candidate) for candidate in works[:SHOWN]],
        "best_of_splits": [candidate_as_json(search, candidate) for candidate in best_of_splits(works)],
    }


def candidate_as_json(search: Search, candidate: Candidate) -> dict[str, Any]:
    """One layout with its times and its options."""
    choice, plan = candidate.choice, candidate.plan
    return {
        "tensor": choice.tensor,
        "pipeline": choice.pipeline,
        "context": choice.context,
        "recompute": choice.recompute,
        "offload_optimizer": choice.offloads_optimizer,
        "gpus": {"all": plan.split.num_gpus, "trainer": plan.split.trainer, "rollout": plan.split.rollout},
        "colocated": plan.split.is_colocated,
        "server_tensor": choice.server_tensor,
        "max_tokens_per_micro_batch": choice.budget,
        "step_s": {stage.stage.name: stage.time.total for stage in plan.stages},
        "hours": plan.hours,
        "gpu_hours": plan.gpu_hours,
        "options": choice.options(search.config, search.split),
    }
