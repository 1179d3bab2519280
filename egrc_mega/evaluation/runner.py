"""Measures the weights that the servers hold on problems never trained on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from egrc_mega.evaluation.intake import JudgedResponse
from egrc_mega.evaluation.pending import Pending
from egrc_mega.evaluation.records import Point, Protocol, Response, Subject
from egrc_mega.evaluation.responses import id_of_text
from egrc_mega.evaluation.statistics.lengths import mean_length
from egrc_mega.evaluation.statistics.outcomes import Outcomes
from egrc_mega.evaluation.statistics.shares import ks_of, pass_at_1, pass_at_k
from egrc_mega.methods.method import Judge
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Ask, Completion, Drawn, Grade, IntArray, Problem, RolloutRequest, Sample, Sampling

NUM_SHOWN = 32
"""Responses kept for the report, the first problems of the file at every point."""

Generate = Callable[[Sequence[RolloutRequest], Callable[[Sequence[Completion]], None]], list[Completion]]
"""From requests to completions in their order; the second argument is told of them as they come."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A problem of the benchmark and its prompt."""

    problem: Problem
    prompt_ids: IntArray
    """int32[P]."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the table, and the responses behind it."""

    point: Point
    responses: list[Response]
    """Some, to be looked at."""
    judged: list[JudgedResponse]
    """All, as numbers."""


def measure(
    asked: Sequence[Asked],
    subject: Subject,
    protocol: Protocol,
    generate: Generate,
    judge: Judge,
    pending: Pending,
    tell: Callable[[int], None] = lambda number: None,
) -> Measurement:
    """Ask for responses to every prompt and grade them. Every subject gets the same seeds under a protocol.

    Args:
        pending: the responses that an interrupted measurement has got; those to come are noted there.
        tell: gets numbers of responses that have come.
    """

    def note(completions: Sequence[Completion]) -> None:
        pending.add(completions)
        tell(len(completions))

    requests = _requests(asked, subject, protocol)
    completions = dict(pending.completions)
    tell(len(completions))
    missing = [request for _one, request in requests if request.rid not in completions]
    completions |= {r.rid: completion for r, completion in zip(missing, generate(missing, note), strict=True)}
    drawn = [
        Drawn(problem=one.problem, ask=Ask(), request=request, completion=completions[request.rid])
        for one, request in requests
    ]
    samples = judge(drawn, frozenset())
    shown = [_response(subject, protocol, sample) for sample in samples[:NUM_SHOWN]]
    return Measurement(_point(subject, protocol, samples), shown, [_judged(sample) for sample in samples])


def _requests(asked: Sequence[Asked], subject: Subject, protocol: Protocol) -> list[tuple[Asked, RolloutRequest]]:
    """All problems once, then all of them again: a larger n begins as a smaller one."""
    sampling = Sampling(
        temperature=protocol.temperature,
        top_p=protocol.top_p,
        max_new_tokens=protocol.max_new_tokens,
        stop_token_ids=protocol.stop_token_ids,
    )
    measurement = f"evaluate-{subject.weights[:16]}-{protocol.key[:16]}"
    return [
        (
            one,
            RolloutRequest(
                rid=f"{measurement}-{i:06d}" if not number else f"{measurement}-again{number:04d}-{i:06d}",
                prompt_id=one.problem.key,
                prompt_ids=one.prompt_ids,
                sampling=sampling,
                seed=derive_seed(protocol.seed, f"{protocol.temperature:g}", i, *([number] if number else [])),
            ),
        )
        for number in range(protocol.samples_per_problem)
        for i, one in enumerate(asked)
    ]


def _point(subject: Subject, protocol: Protocol, samples: Sequence[Sample]) -> Point:
    """Ungraded samples are left out of the accuracy and counted; a truncated one counts at its full length."""
    outcomes = _outcomes(samples)
    share, length = pass_at_1(outcomes), mean_length(outcomes)
    assert length is not None, "a measurement of no problem"
    at_k = {k: pass_at_k(outcomes, k) for k in ks_of(outcomes)}
    return Point(
        label=subject.label,
        ordinal=subject.ordinal,
        step=subject.step,
        within=subject.within,
        weights=subject.weights,
        protocol=protocol.key,
        temperature=protocol.temperature,
        accuracy=share.estimate.value if share else None,
        accuracy_ci=(share.estimate.low, share.estimate.high) if share else (0.0, 1.0),
        mean_length=length.value,
        mean_length_ci=(length.low, length.high),
        n=len(samples),
        num_ungraded=sum(sample.grade is Grade.UNGRADED for sample in samples),
        num_truncated=sum(sample.completion.truncated for sample in samples),
        well_formed=fmean(sample.well_formed for sample in samples),
        reasons=dict(sorted(Counter(str(sample.reason) for sample in samples if sample.reason).items())),
        samples_per_problem=protocol.samples_per_problem,
        pass_at={str(k): share.estimate.value for k, share in at_k.items() if share},
    )


def _outcomes(samples: Sequence[Sample]) -> Outcomes:
    """Samples of a problem are alike: they share its place in the file."""
    keys = [sample.problem.key for sample in samples]
    return Outcomes.of(keys, [_truth(sample) for sample in samples], [float(sample.length) for sample in samples])


def _truth(sample: Sample) -> bool | None:
    return None if sample.grade is Grade.UNGRADED else sample.right


def _judged(sample: Sample) -> JudgedResponse:
    """As numbers; a problem is known by its text, whatever file it stands in."""
    return JudgedResponse(
        problem=id_of_text(sample.problem.text),
        right=_truth(sample),
        reason=str(sample.reason),
        published=None,
        length=sample.length,
        characters=len(sample.text),
        truncated=sample.completion.truncated,
    )


def _response(subject: Subject, protocol: Protocol, sample: Sample) -> Response:
    return Response(
        weights=subject.weights,
        protocol=protocol.key,
        problem=sample.problem.text,
        gold=sample.problem.answer,
        text=sample.text,
        grade=sample.grade.value,
        length=sample.length,
        truncated=sample.completion.truncated,
        reason=str(sample.reason),
    )
