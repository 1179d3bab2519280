"""Seconds of a run's evaluations."""

from egrc_mega.config.config import Config
from egrc_mega.evaluation.sets import evaluation_sets
from egrc_mega.plan.constants import Constants
from egrc_mega.plan.generation import Server, batch_seconds
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.workload import StageWork

UNKNOWN_PROBLEMS = 500
"""Of a benchmark that is taken whole: its file is not read here."""


def evaluation_seconds(
    config: Config, server: Server, num_servers: int, works: list[StageWork], constants: Constants
) -> float:
    """Of the base, of every stage's end, and of those between (`evaluation.every`), on so many servers.

    Responses are taken to be as long as those of the stage with the longest ones.
    """
    mean = max(each.work.lengths.mean for each in works)
    prompt = works[0].work.prompt_tokens
    seconds = 0.0
    for each in evaluation_sets(config):
        requests = (each.num_problems or UNKNOWN_PROBLEMS) * each.n
        lengths = Lengths(min(mean, 0.9 * each.max_new_tokens), each.max_new_tokens)
        once = batch_seconds(server, requests, num_servers, lengths, prompt, constants)
        seconds += len(each.temperatures) * once
    return seconds * num_evaluations(config)


def num_evaluations(config: Config) -> int:
    """At most: the base, the ends of stages, and within stages every so many steps."""
    every = config.evaluation.every
    steps = sum(stage.steps for stage in config.stages)
    return 1 + len(config.stages) + (steps // every if every else 0)
