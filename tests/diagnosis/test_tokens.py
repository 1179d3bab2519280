"""What the tokens of a response are called, how their figures go together, and which words come out on top."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.diagnosis.correlation import P_BOUNDS, correlation, pearson, ranks, within_bins
from egrc_mega.diagnosis.question import TokenSettings
from egrc_mega.diagnosis.token_classes import CLASSES, classes_of
from egrc_mega.diagnosis.token_part import TokenPart
from egrc_mega.diagnosis.token_words import clouds
from egrc_mega.errors import DataError
from egrc_mega.evaluation.responses import SampledResponse
from egrc_mega.types import Grade, token_array

TRACE = "Then a 9 - 3 = 6 ; Wait check a 9 - 3 = 6 ; </think> \\boxed{ 6 }"
PROBLEM = "9 a - 3 = ?"


@pytest.fixture(scope="module")
def renderer(base_model: Path) -> Renderer:
    return Renderer(load_tokenizer(base_model), "")


@pytest.fixture
def part(base_model: Path) -> TokenPart:
    return TokenPart(base_model, TokenSettings(num_block_gradients=4, num_full_gradients=2))


def response_of(renderer: Renderer, text: str = TRACE, **changes: object) -> SampledResponse:
    ids = renderer.encode(f" {text}")
    fields = {"place": "here", "problem_id": "p", "prompt": PROBLEM, "text": renderer.decode(ids), "output_ids": ids}
    return SampledResponse(**(fields | changes))  # type: ignore[arg-type]


def test_each_token_has_the_class_of_its_place(renderer: Renderer) -> None:
    ids = token_array([*renderer.encode(f" {TRACE}").tolist(), renderer.tokenizer.eos_token_id])
    found, is_redundant = classes_of(renderer.decode(ids), renderer.token_ends(ids), ids, [2])
    names = [CLASSES[i] for i in found]
    assert names == [
        *(["step", "content", "digit", "operator", "digit", "operator", "digit", "content"]),
        *(["recheck", "content", "content", "digit", "operator", "digit", "operator", "digit", "content"]),
        *(["content", "latex", "digit", "latex", "special"]),
    ]  # fmt: skip
    assert np.flatnonzero(is_redundant).tolist() == [8]


def test_a_connector_of_several_tokens_counts_where_it_begins() -> None:
    text, ends = "So, alternatively 3", token_array([2, 3, 9, 17, 19])
    found, _redundant = classes_of(text, ends, token_array([1, 2, 3, 4, 5]), [])
    assert [CLASSES[i] for i in found] == ["step", "content", "recheck", "content", "digit"]


def test_a_latex_command_of_several_tokens_is_latex_throughout() -> None:
    text, ends = r"$\frac{1}{2}$", token_array([1, 2, 6, 7, 8, 10, 11, 13])
    found, _redundant = classes_of(text, ends, token_array(range(8)), [])
    assert [CLASSES[i] for i in found] == ["latex", "latex", "latex", "latex", "digit", "latex", "digit", "latex"]


def test_pearson_is_numpys_and_none_where_nothing_varies() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = x + rng.normal(size=50)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pearson(x, np.ones(50)) is None
    assert pearson(x[:1], y[:1]) is None


def test_spearman_sees_the_order_alone_and_shares_ranks_among_equals() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]
    x = np.arange(1.0, 9.0)
    found = correlation(x, np.exp(x))
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] < 0.9
    assert found["num"] == 8


def test_every_token_is_in_one_bin_of_its_probability() -> None:
    probability = np.array([0.0, 0.1, 0.2, 0.49, 0.5, 0.79, 0.8, 0.99, 1.0])
    bins = within_bins(probability, -probability, probability)
    assert [one["num"] for one in bins] == [2, 2, 2, 3]
    assert [one["pearson"] for one in bins] == pytest.approx([-1.0] * 4)
    assert [one["p_from"] for one in bins] == list(P_BOUNDS[:-1])


def test_a_cloud_holds_tokens_by_mean_entropy_that_occur_often_enough(renderer: Renderer) -> None:
    so, wait, digit = (int(renderer.encode(f" {word}")[0]) for word in ("So", "Wait", "3"))
    ids = token_array([so] * 5 + [wait] * 5 + [digit] * 4)
    entropy = np.array([1.0, 2, 1, 2, 4] + [3.0] * 5 + [9.0] * 4)
    found = clouds(ids, entropy, renderer.tokenizer)
    expected = [{"text": "Wait", "entropy": 3.0, "count": 5}, {"text": "So", "entropy": 2.0, "count": 5}]
    assert found["high"] == expected
    assert found["low"] == expected[::-1]


def test_tokens_that_the_policy_did_not_sample_are_left_out(part: TokenPart) -> None:
    response = response_of(part.renderer)
    assert response.output_ids is not None
    sampled = np.arange(len(response.output_ids)) != 6
    part.take(response_of(part.renderer, sampled=sampled))
    figures = part.table.figures({})
    assert figures["num_tokens"] == len(sampled) - 1
    assert 6 not in part.table.eligible([100]).tolist()


def test_think_and_answer_part_are_told_apart(part: TokenPart) -> None:
    measured = part.take(response_of(part.renderer))
    num_answer = len(part.renderer.encode(" \\boxed{ 6 }"))
    assert (~measured.is_thinking).sum() == num_answer
    figures = part.table.figures({})
    assert figures["parts"]["answer"]["num"] == num_answer
    expected = measured.figures.entropy[-num_answer:].mean()
    assert figures["parts"]["answer"]["entropy"] == pytest.approx(expected)


def test_a_response_that_never_ends_its_thinking_is_thinking_throughout(part: TokenPart) -> None:
    measured = part.take(response_of(part.renderer, "Then a 9 - 3 = 6 ;"))
    assert measured.is_thinking.all()


def test_as_many_tokens_are_looked_at_as_may_be_and_what_is_cut_is_counted(base_model: Path) -> None:
    part = TokenPart(base_model, TokenSettings(max_tokens=30))
    part.take(response_of(part.renderer))
    assert not part.is_full
    part.take(response_of(part.renderer))
    assert part.is_full
    assert (part.table.num_tokens, part.num_cut) == (30, 1)


def test_a_response_beyond_the_models_positions_is_cut(part: TokenPart) -> None:
    part.take(response_of(part.renderer, "Then " * 600))
    assert part.num_cut == 1
    assert part.table.num_tokens == 512 - len(part._asked[0][0])


def test_a_text_without_tokens_is_read_by_the_models_tokenizer(part: TokenPart) -> None:
    known = part.take(response_of(part.renderer))
    again = part.take(response_of(part.renderer, output_ids=None))
    np.testing.assert_allclose(again.figures.entropy, known.figures.entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ids", [[41, 3], [-1, 3], [5, 6, 7]])
def test_tokens_of_another_tokenizer_are_refused(ids: list[int], part: TokenPart) -> None:
    with pytest.raises(DataError, match=r"here: the tokenizer of .* reads its tokens as another text"):
        part.take(response_of(part.renderer, output_ids=token_array(ids)))


def test_an_empty_response_is_taken_without_harm(part: TokenPart) -> None:
    part.take(response_of(part.renderer, "", output_ids=token_array()))
    part.take(response_of(part.renderer, verdict=Grade.RIGHT))
    figures = part.table.figures(part.gradients(print))
    assert figures["num_responses"] == 2
    assert figures["by_verdict"]["not judged"] == {"num": 0, "entropy": None}
    assert figures["by_verdict"]["right"]["num"] == figures["num_tokens"]


def test_nothing_at_all_has_no_figures_and_no_error(part: TokenPart) -> None:
    part.take(response_of(part.renderer, "", output_ids=token_array()))
    assert part.table.figures(part.gradients(print))["entropy"] == {"mean": None}


def test_gradients_are_drawn_of_as_many_tokens_as_asked_for(part: TokenPart) -> None:
    notes: list[str] = []
    for _ in range(3):
        part.take(response_of(part.renderer))
    found = part.gradients(notes.append)
    assert {name: len(sizes) for name, (_rows, sizes) in found.items()} == {"last_block": 4, "full": 2}
    _rows, sizes = found["full"]
    assert (sizes > 0).all()
    correlations = part.table.figures(found)["entropy_gradient"]
    assert correlations["full"]["num"] == 2
    assert correlations["logits"]["num"] == part.table.num_tokens


def test_only_tokens_that_fit_into_a_batch_are_drawn(base_model: Path) -> None:
    part = TokenPart(base_model, TokenSettings(batch_tokens=18, num_block_gradients=100, num_full_gradients=0))
    measured = part.take(response_of(part.renderer))
    rows, _sizes = part.gradients(print)["last_block"]
    assert rows.tolist() == list(range(18 - len(part._asked[0][0])))
    assert len(rows) < len(measured.output_ids)


def _texts() -> Iterator[str]:
    yield from (TRACE, "So a 9 - 3 = 6 ; </think> \\boxed{ 6 }")


def test_the_same_responses_give_the_same_figures(base_model: Path) -> None:
    results = []
    for _ in range(2):
        part = TokenPart(base_model, TokenSettings(num_block_gradients=4, num_full_gradients=2))
        for text in _texts():
            part.take(response_of(part.renderer, text))
        results.append(part.table.figures(part.gradients(print)))
    assert results[0] == results[1]
