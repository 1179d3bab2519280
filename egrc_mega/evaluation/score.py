"""Reads the figure that decides about the best checkpoint off the points of an evaluation."""

from collections.abc import Sequence

from egrc_mega.evaluation.records import Point, Subject
from egrc_mega.sections.evaluation import BestSection
from egrc_mega.stages.best import Score

PASS_AT = "pass@"


def score_of(points: Sequence[Point], subject: Subject, by: BestSection) -> Score:
    """The score of a subject, of whose points these are all."""
    own = [point for point in points if point.set == by.set and by.temperature in (None, point.temperature)]
    point = own[0]  # config.check has seen that there is one
    value = (
        point.pass_at.get(by.metric.removeprefix(PASS_AT))
        if by.metric.startswith(PASS_AT)
        else getattr(point, by.metric)
    )
    return Score(step=subject.step or 0, label=subject.label, value=value, ungraded=point.num_ungraded, n=point.n)
