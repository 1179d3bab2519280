"""What a resumed run may change: a list, in words in docs/configuration.md. Everything else is refused by name.

A checkpoint holds the configuration that the run has gone by. What was already done with it stays as it was; what only
says where and how fast things run may change; stages that have not begun may change as they like.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from egrc_mega.errors import RunError
from egrc_mega.stages.progress import Progress
from egrc_mega.stages.state import RunState

MAY_CHANGE = (
    "run.dir",
    "run.lead_timeout_s",
    "run.replay_rollouts",
    "run.stop_grace_s",
    "supervisor.",
    "sync.",
    "checkpoint.",
    "observe.",
    "evaluation.",
    "health.",
    "grading.num_workers",
    "grading.timeout_s",
    "policy.",
    "megatron.recompute_",
    "megatron.overlap_",
    "megatron.transformer_impl",
    "megatron.tensor_model_parallel_size",
    "megatron.pipeline_model_parallel_size",
    "megatron.virtual_pipeline_model_parallel_size",
    "megatron.context_parallel_size",
    "megatron.expert_model_parallel_size",
    "megatron.num_layers_in_",
    "megatron.sequence_parallel",
    "rollout.server",
    "rollout.urls",
    "rollout.hosts_file",
    "rollout.announce_dir",
    "rollout.num_servers",
    "rollout.device",
    "rollout.tensor_parallel_size",
    "rollout.gpus",
    "rollout.python",
    "rollout.sglang_args",
    "rollout.host",
    "rollout.port",
    "rollout.colocated",
    "rollout.max_refused",
    "rollout.max_staleness",
    "rollout.max_batch_size",
    "rollout.max_attempts",
    "rollout.max_restarts",
    "rollout.restart_window_s",
    "rollout.start_timeout_s",
    "rollout.request_timeout_s",
    "rollout.silence_timeout_s",
    "rollout.update_timeout_s",
)
"""Fields that a resume may change at any time; what ends in a dot or a low line stands for all that begin so."""

MISSING = object()


def resumed(state: RunState, config: Mapping[str, Any]) -> RunState:
    """The run's place under the configuration that the resume brings (both plain JSON values).

    Raises:
        RunError: with one line for each field that must stay as it was.
    """
    problems = [*_problems_outside_stages(state.config, config), *_problems_in_stages(state, config)]
    if problems:
        raise RunError("\n".join(problems))
    return state.model_copy(update={**_moved(state, config), "config": dict(config)})


def asks_the_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a run that is over has nothing to do under another configuration: it differs in where and how only."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    differing = [name for name in {*old, *new} if old.get(name, MISSING) != new.get(name, MISSING)]
    return all(_is_among(MAY_CHANGE, name) and not name.startswith("evaluation.") for name in differing)


def _problems_outside_stages(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = (dict(_leaves({k: v for k, v in side.items() if k != "stages"})) for side in (before, now))
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name, MISSING) != new.get(name, MISSING) and not _is_among(MAY_CHANGE, name):
            yield _refusal(name, old.get(name, MISSING), new.get(name, MISSING))


def _problems_in_stages(state: RunState, config: Mapping[str, Any]) -> Iterator[str]:
    old, new, progress = state.config["stages"], config["stages"], state.progress
    is_over = progress.stage == len(old)
    for i, stage in enumerate(old[: progress.stage + 1]):
        if i >= len(new) or new[i]["method"] != stage["method"]:
            yield f"stages: stage {_name(stage)} has begun and is left out at its place; put it back"
            return
        begun, asked = dict(_leaves(stage)), dict(_leaves(new[i]))
        is_last_under_way = i == progress.stage or (is_over and i == len(old) - 1)
        free = ("steps", "plateau", "plateau.") if is_last_under_way else ()
        for name in [*begun, *(name for name in asked if name not in begun)]:
            if begun.get(name, MISSING) != asked.get(name, MISSING) and not _is_among(free, name):
                yield _refusal(f"stages.{_name(stage)}.{name}", begun.get(name, MISSING), asked.get(name, MISSING))
        if is_last_under_way and new[i].get("steps", 0) < progress.step_in_stage:
            yield (
                f"stages.{_name(stage)}.steps: {new[i]['steps']}, but {progress.step_in_stage} steps are done already; "
                f"give at least as many"
            )


def _moved(state: RunState, config: Mapping[str, Any]) -> dict[str, Any]:
    """Where another number of steps takes the run.

    A stage under way that is given as many as it has had is over. A run that was over goes on where its last stage has
    been given more steps, else with stages that were added.
    """
    progress, last, stages = state.progress, len(state.config["stages"]) - 1, config["stages"]
    if progress.stage <= last:
        is_over = stages[progress.stage]["steps"] == progress.step_in_stage
        return _behind_stage(progress, is_last=progress.stage + 1 == len(stages)) if is_over else {}
    if stages[last]["steps"] > state.config["stages"][last]["steps"]:
        return {"progress": progress.model_copy(update={"stage": last})}
    if len(stages) > last + 1:
        return _behind_stage(progress.model_copy(update={"stage": last}), is_last=False)
    return {}


def _behind_stage(progress: Progress, *, is_last: bool) -> dict[str, Any]:
    """The place behind the stage under way; what it has seen and remembers is not another stage's."""
    if is_last:
        return {"progress": progress.model_copy(update={"stage": progress.stage + 1})}
    return {"progress": Progress(step=progress.step, stage=progress.stage + 1), "method": None}


def _is_among(names: Iterable[str], name: str) -> bool:
    return any(name == entry or (entry[-1] in "._" and name.startswith(entry)) for entry in names)


def _refusal(name: str, before: Any, now: Any) -> str:
    shown, known = ("left out" if value is MISSING else repr(value) for value in (now, before))
    return (
        f"{name}: {shown}, but the run has gone by {known}; resume with that, or begin anew with --fresh "
        f"(docs/configuration.md lists what may change)"
    )


def _name(stage: Mapping[str, Any]) -> str:
    return str(stage.get("label") or stage["method"])


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, child in value.items():
        if isinstance(child, Mapping) and child:
            yield from _leaves(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", child
