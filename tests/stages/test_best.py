"""Which evaluation is the best, and when a run has seen enough of them."""

from egrc_mega.sections.evaluation import BestSection, StopSection
from egrc_mega.stages.best import Best, Score, follow, reason_to_stop, said

HIGHEST, LOWEST = BestSection(), BestSection(metric="mean_length", mode="min", set="own", temperature=0.8)


def after(values: list[float | None], by: BestSection = HIGHEST) -> tuple[Best, list[int]]:
    """The best after evaluations at steps 1, 2, ..., and the steps at which it moved."""
    best, moved = Best(), []
    for step, value in enumerate(values, 1):
        best, is_better = follow(best, by, Score(step=step, label="a", value=value, ungraded=1, n=8))
        moved += [step] if is_better else []
    return best, moved


def test_the_best_moves_to_a_higher_value_only_and_to_a_lower_one_where_that_is_better() -> None:
    best, moved = after([0.5, 0.4, 0.5, 0.6, 0.6])
    assert (moved, best.score and best.score.step, best.num_since) == ([1, 4], 4, 1)
    best, moved = after([50.0, 60.0, 40.0, 45.0], LOWEST)
    assert (moved, best.num_since) == ([1, 3], 1)


def test_an_evaluation_without_a_figure_is_never_the_best_and_counts_as_one_that_is_no_better() -> None:
    assert after([None, None])[0].score is None
    assert after([0.5, None, None])[0].num_since == 2


def test_the_base_is_never_the_best_and_does_not_count() -> None:
    best, is_better = follow(Best(), HIGHEST, Score(step=0, label="base", value=0.9))
    assert not is_better and best == Best(by=HIGHEST)


def test_another_metric_begins_anew() -> None:
    best, _moved = after([0.5, 0.4])
    best, is_better = follow(best, LOWEST, Score(step=9, label="a", value=700.0))
    assert is_better and best.num_since == 0


def test_patience_ends_a_run_after_so_many_evaluations_that_were_no_better() -> None:
    stop = StopSection(patience=2)
    assert reason_to_stop(after([0.5, 0.4])[0], stop) is None
    reason = reason_to_stop(after([0.5, 0.4, 0.5])[0], stop)
    assert reason is not None
    assert reason.startswith(
        "2 evaluations in a row were no better than that of step 1: accuracy 0.5 (1 of 8 ungraded)"
    )
    assert reason_to_stop(after([None, None, None])[0], stop) is None


def test_a_target_ends_a_run_from_the_side_that_is_better() -> None:
    assert reason_to_stop(after([0.89])[0], StopSection(target=0.9)) is None
    for value in (0.9, 0.95):
        assert "has reached evaluation.stop.target = 0.9" in (
            reason_to_stop(after([value])[0], StopSection(target=0.9)) or ""
        )
    assert reason_to_stop(after([41.0], LOWEST)[0], StopSection(target=40)) is None
    assert reason_to_stop(after([39.0], LOWEST)[0], StopSection(target=40)) is not None


def test_a_score_in_words_has_its_set_and_what_is_ungraded() -> None:
    score = Score(step=1, label="a", value=39.0, ungraded=2, n=16)
    assert said(LOWEST, score) == "mean_length on own at T 0.8 39 (2 of 16 ungraded)"
