"""Asks servers for n responses to each problem of a benchmark, for those only that the journal has not got yet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from secrets import token_hex
from typing import Any

from egrc_mega.data.render import Renderer
from egrc_mega.evaluation.benchmarks import Benchmark, PromptTemplate, problem_id
from egrc_mega.evaluation.journal import Journal
from egrc_mega.rollout.stream import Stream, complete
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Completion, IntArray, Problem, RolloutRequest, Sampling


@dataclass(frozen=True, slots=True, eq=False)
class AskedProblem:
    """A problem of a benchmark, and the prompt that it is asked with."""

    problem: Problem
    identity: str
    prompt_ids: IntArray
    """int32[P]."""
    thinks: bool
    """The prompt ends within an open `<think>`."""


def asked_problems(benchmark: Benchmark, template: PromptTemplate, renderer: Renderer) -> list[AskedProblem]:
    """Render the prompt of every problem.

    Raises:
        ModelError: the chat template fails.
    """
    found = []
    for problem in benchmark.problems:
        ids = renderer.prompt_ids(template.applied(problem))
        found.append(AskedProblem(problem, problem_id(problem), ids, renderer.thinks(ids)))
    return found


def missing_requests(
    name: str, asked: Sequence[AskedProblem], num_samples: int, seed: int, sampling: Sampling, journal: Journal
) -> list[tuple[AskedProblem, int, RolloutRequest]]:
    """A request for every sample that the journal has not got; benchmark, problem and number decide about its seed."""
    start = token_hex(4)  # a server may still hold the requests of an evaluation that was killed
    return [
        (
            one,
            number,
            RolloutRequest(
                rid=f"eval-{start}-{name}-{one.identity}-{number:04d}",
                prompt_id=f"{name}-{one.identity}",
                prompt_ids=one.prompt_ids,
                sampling=sampling,
                seed=derive_seed(seed, name, one.identity, number),
            ),
        )
        for number in range(num_samples)
        for one in asked
        if (one.identity, number) not in journal.done
    ]


def ask(
    stream: Stream,
    requests: Sequence[tuple[AskedProblem, int, RolloutRequest]],
    renderer: Renderer,
    journal: Journal,
    at_once: int,
    tell: Callable[[int], None] = lambda number: None,
) -> None:
    """Send the requests, at most so many at once, and write down each response as it comes.

    Args:
        tell: gets the number of responses that have come.

    Raises:
        RolloutError: a request was refused, or lost too often; what has come by then is kept.
    """
    waiting: Iterator[tuple[AskedProblem, int, RolloutRequest]] = iter(requests)
    open_requests: dict[str, tuple[AskedProblem, int]] = {}
    while True:
        added = list(islice(waiting, at_once - len(open_requests)))
        open_requests |= {request.rid: (one, number) for one, number, request in added}
        stream.add([request for _one, _number, request in added])
        if not open_requests:
            return
        done = complete(stream.take())
        journal.add([_line(completion, *open_requests.pop(completion.rid), renderer) for completion in done])
        tell(len(done))


def _line(completion: Completion, one: AskedProblem, number: int, renderer: Renderer) -> dict[str, Any]:
    return {
        "problem_id": one.identity,
        "sample": number,
        "problem": one.problem.text,
        "gold": one.problem.answer,
        "response": renderer.decode(completion.output_ids),
        "length": len(completion.output_ids),
        "think_length": renderer.think_length(completion.output_ids),
        "finish_reason": completion.finish_reason.value,
        "prompt_thinks": one.thinks,
    }
