"""A plan as plain values: bytes, tokens, seconds, hours."""

from typing import Any

from egrc_mega.plan.memory import RankMemory
from egrc_mega.plan.plan import Memory, Plan, StagePlan
from egrc_mega.plan.serving import ServerMemory


def as_json(plan: Plan) -> dict[str, Any]:
    """What `page` shows, for programs. Sizes are in bytes, times in seconds where no unit stands in the name."""
    split = plan.split
    found: dict[str, Any] = {
        "model": {"parameters": plan.model.num_parameters, "origin": plan.model.origin},
        "gpu": plan.gpu.name,
        "gpu_memory_bytes": plan.gpu.memory_bytes,
        "gpus": {"all": split.num_gpus, "trainer": split.trainer, "rollout": split.rollout},
        "colocated": split.is_colocated,
        "possible": not plan.problems,
        "problems": plan.problems,
        "max_tokens_per_micro_batch": plan.config.policy.max_tokens_per_micro_batch,
    }
    if plan.memory:
        found |= _memory(plan.memory, plan.config.policy.max_tokens_per_micro_batch)
    if plan.stages:
        found["stages"] = {each.stage.name: _stage(plan, each) for each in plan.stages}
        found |= {"evaluation_hours": plan.evaluation_hours, "hours": plan.hours, "gpu_hours": plan.gpu_hours}
    if plan.spare:
        found["gpus"]["spare"] = plan.num_spare_gpus
        found["spare_server"] = _server(plan.spare)
    return found


def _memory(memory: Memory, budget: int) -> dict[str, Any]:
    return {
        "ranks": [_rank(rank) for rank in memory.ranks],
        "activations_by_recompute": memory.activations(budget),
        "fitting_tokens_per_micro_batch": memory.fitting_budget,
        "server": _server(memory.server),
        "colocated_peak": memory.colocated_peak,
    }


def _server(server: ServerMemory) -> dict[str, Any]:
    return {
        "weights": server.weights,
        "kv_cache": server.kv_cache,
        "kv_bytes_per_token": server.kv_bytes_per_token,
        "kv_tokens": server.kv_tokens,
    }


def _rank(rank: RankMemory) -> dict[str, Any]:
    return {
        "stage": rank.stage,
        "parameters": rank.states.parameters,
        "weights": rank.states.weights,
        "gradients": rank.states.gradients,
        "optimizer": rank.states.optimizer,
        "optimizer_on_host": rank.optimizer_on_host,
        "activations": rank.activations,
        "working": rank.working,
        "head": rank.head,
        "sync": rank.sync,
        "in_flight": rank.in_flight,
        "reserved": rank.reserved,
        "phases": rank.phases(),
        "peak": rank.peak,
    }


def _stage(plan: Plan, each: StagePlan) -> dict[str, Any]:
    training, work = each.time.training, each.stage.work
    return {
        "steps": each.stage.steps,
        "responses": work.num_responses,
        "mean_tokens": work.lengths.mean,
        "longest": each.stage.longest,
        "prompt_tokens": work.prompt_tokens,
        "rollout_s": each.time.rollout,
        "train_s": training.total,
        "train_parts_s": {
            "products": training.products,
            "bubble": training.bubble,
            "sends": training.tensor,
            "replicas": training.data,
            "optimizer": training.optimizer,
        },
        "sync_at_least_s": each.time.sync,
        "overlapped": each.time.mode != "sync",
        "step_s": each.time.total,
        "micro_batches": training.num_micro_batches,
        "bubble_share": training.bubble_share,
        "tokens_per_s": each.time.tokens_per_s,
        "tokens_per_s_per_gpu": each.time.tokens_per_s / plan.split.num_gpus,
        "hours": each.hours,
    }
