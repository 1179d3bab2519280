"""Token weights against a reader who writes each mean out: every reduction, denominator and class."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egrc_mega.methods.weights import token_weights
from egrc_mega.sections.stage import LossSection

TRAINED = [[1, 1, 0, 1], [0, 0], [1], [], [1, 0, 1]]
KEPT = [True, True, False, True, False]
AGGREGATIONS = ["seq-mean-token-mean", "token-mean", "seq-mean-token-sum"]
REDUCTIONS = list(itertools.product(AGGREGATIONS, ["all", "kept"]))


def masks(rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, bool) for row in rows]


def written_out(rows: list[list[int]], kept: list[bool], loss: LossSection) -> list[list[float]]:
    """1 / (|o| N), 1 / tokens or 1 / (constant N), over all rollouts or over the kept ones; nothing to divide by: 0."""
    counted = [row for row, is_kept in zip(rows, kept, strict=True) if is_kept or loss.denominator == "all"]
    num_sequences, num_tokens = len(counted), sum(sum(row) for row in counted)
    found = []
    for row in rows:
        divisor = sum(row) * num_sequences if loss.agg == "seq-mean-token-mean" else num_tokens
        if loss.agg == "seq-mean-token-sum":
            divisor = loss.sum_divisor * num_sequences
        found.append([1 / divisor if token and divisor else 0.0 for token in row])
    return found


@pytest.mark.parametrize(("agg", "denominator"), REDUCTIONS)
def test_weights_are_those_of_the_mean_that_the_configuration_names(agg: str, denominator: str) -> None:
    loss = LossSection(agg=agg, denominator=denominator)
    found = token_weights(masks(TRAINED), KEPT, loss)
    for own, expected in zip(found, written_out(TRAINED, KEPT, loss), strict=True):
        assert own.tolist() == pytest.approx(expected)


@given(
    rows=st.lists(st.lists(st.integers(0, 1), max_size=6), min_size=1, max_size=6),
    data=st.data(),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_any_batch_has_the_weights_of_its_mean(rows, data, reduction) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    loss = LossSection(agg=reduction[0], denominator=reduction[1])
    for own, expected in zip(token_weights(masks(rows), kept, loss), written_out(rows, kept, loss), strict=True):
        assert own.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("agg", "denominator"), REDUCTIONS)
def test_a_response_without_a_trained_token_weighs_nothing_and_breaks_nothing(agg: str, denominator: str) -> None:
    loss = LossSection(agg=agg, denominator=denominator)
    masked, other = token_weights(masks([[0, 0, 0], [1, 1]]), [True, True], loss)
    assert masked.tolist() == [0.0, 0.0, 0.0]
    # it is a response of the batch all the same: N counts it, the number of tokens does not
    expected = {"seq-mean-token-mean": 1 / 4, "token-mean": 1 / 2, "seq-mean-token-sum": 1 / 2}[agg]
    assert other.tolist() == pytest.approx([expected, expected])


def test_a_sum_over_tokens_by_a_constant_weighs_a_token_alike_whatever_the_batch_looks_like() -> None:
    """Dr.GRPO: a longer response, or a longer batch, takes nothing off a token's weight."""
    loss = LossSection(agg="seq-mean-token-sum", sum_divisor=3000)
    for rows in (TRAINED, [[1] * 40, *TRAINED[1:]]):
        for own, row in zip(token_weights(masks(rows), KEPT, loss), rows, strict=True):
            assert own.tolist() == pytest.approx([bit / (3000 * 5) for bit in row])


@pytest.mark.parametrize("agg", ["seq-mean-token-mean", "token-mean"])
def test_with_nothing_kept_the_kept_denominator_gives_weight_to_nothing(agg: str) -> None:
    weights = token_weights(masks([[1, 1], [1]]), [False, False], LossSection(agg=agg, denominator="kept"))
    assert [own.tolist() for own in weights] == [[0.0, 0.0], [0.0]]


def test_each_class_has_a_mean_of_its_own_times_its_weight() -> None:
    loss = LossSection(class_weights=(1.0, 0.5, 2.0))
    classes = [np.array([1, 0, 0, 2]), None, np.array([1, 1, 0])]
    first, plain, last = token_weights(masks([[1, 1, 1, 1], [1, 1], [1, 0, 1]]), [True] * 3, loss, classes)
    # N is 3 in every class; |o| is the number of a response's own trained tokens of the class
    assert first.tolist() == pytest.approx([0.5 / 3, 1 / 6, 1 / 6, 2 / 3])
    assert plain.tolist() == pytest.approx([1 / 6, 1 / 6])
    assert last.tolist() == pytest.approx([0.5 / 3, 0.0, 1 / 3])


def test_classes_of_a_mean_over_tokens_are_divided_by_the_tokens_of_the_class() -> None:
    loss = LossSection(agg="token-mean", class_weights=(1.0, 3.0))
    first, second = token_weights(masks([[1, 1, 1], [1, 1]]), [True] * 2, loss, [np.array([1, 0, 0]), None])
    assert first.tolist() == pytest.approx([3.0, 1 / 4, 1 / 4])
    assert second.tolist() == pytest.approx([1 / 4, 1 / 4])


def test_a_class_of_weight_zero_is_not_trained() -> None:
    loss = LossSection(class_weights=(1.0, 0.0))
    [own] = token_weights(masks([[1, 1]]), [True], loss, [np.array([1, 0])])
    assert own.tolist() == [0.0, 1.0]
