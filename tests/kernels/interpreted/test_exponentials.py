"""Gradients in forward from the exponentials of a fused product, in Triton's interpreter, against float64 autograd."""

from typing import Any

import pytest
import torch
from egrc_kernels.linear_logprob import exponentials, in_forward, join, linear_logprob, linear_token_loss
from egrc_kernels.linear_logprob import triton as fused_kernels
from egrc_kernels.linear_logprob.fused import tiles_and_programs

from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.kernel_worker import compare_shards_of_distant_logits, compare_token_loss_shards


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of rows, and groups of tiles that end within."""
    monkeypatch.setattr(fused_kernels, "GROUP_M", 2)
    monkeypatch.setattr(join, "JOIN_ROWS", 16)
    monkeypatch.setattr(join, "JOIN_TILES", 4)
    monkeypatch.setattr(in_forward, "MAX_ROWS", 40)
    monkeypatch.setattr(in_forward, "row_partials", None)  # of logits, which nobody makes


def in_one(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, slopes: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, Any, torch.Tensor, torch.Tensor]:
    """Loss, statistics and gradients of the sum of slopes times log-probs."""
    live = [x.clone().requires_grad_() for x in (hidden, weight)]

    def by_row(logprobs: torch.Tensor, place: slice) -> tuple[torch.Tensor, torch.Tensor]:
        return (slopes[place] * logprobs).sum(), slopes[place]

    loss, stats = linear_token_loss(*live, targets, by_row, **options)
    return loss.detach(), stats, *torch.autograd.grad(2.0 * loss, live)


def exact(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, slopes: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss and its gradients in float64."""
    live = [x.double().requires_grad_() for x in (hidden, weight)]
    logprobs = torch.log_softmax(live[0] @ live[1].T / temperature, -1)
    chosen = logprobs.gather(1, targets.clamp(min=0)[:, None])[:, 0].where(targets >= 0, 0.0)
    loss = (slopes * chosen).sum()
    return loss.detach(), *torch.autograd.grad(2.0 * loss, live)


def assert_close(found: torch.Tensor, expected: torch.Tensor, largest: float = 10.0) -> None:
    """Relative L2; a difference of logarithms as large as the largest logit is rounded as those are."""
    assert found.isfinite().all()
    bound = 3e-6 + 6 * torch.finfo(torch.float32).eps * largest
    assert float((found.double() - expected).norm() / expected.norm().clamp(min=1e-3)) <= bound


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("chunk_bytes", [None, 4 * 200 * 20])
@pytest.mark.parametrize(
    ("num_rows", "columns", "size", "real"), [(1, 1, 8, 1), (37, 200, 32, 200), (100, 333, 20, 250), (41, 100, 8, 64)]
)
def test_loss_and_gradients_with_padding_and_rows_without_a_target(
    num_rows: int, columns: int, size: int, real: int, chunk_bytes: int | None, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(columns)
    hidden, weight = (torch.randn(n, size, generator=generator) for n in (num_rows, columns))
    weight[real:] = 1e3
    targets = torch.randint(real, (num_rows,), generator=generator)
    targets[num_rows // 2 + 1 :: 5] = -100
    targets[-1] = real - 1
    slopes = torch.randn(num_rows, generator=generator)
    options = {"temperature": temperature, "vocab_size": real, "chunk_bytes": chunk_bytes}
    loss, _stats, by_hidden, by_weight = in_one(hidden, weight, targets, slopes, **options)
    expected = exact(hidden, weight[:real], targets, slopes, temperature)
    largest = float((hidden @ weight[:real].T).abs().max()) / temperature
    for found, value in zip((loss, by_hidden, by_weight[:real]), expected, strict=True):
        assert_close(found, value, largest)
    assert real == columns or by_weight[real:].abs().max() == 0
    assert by_hidden[targets == -100].abs().sum() == 0


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_row_has_the_bits_it_was_scored_with(temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(90, 16, generator=generator), torch.randn(150, 16, generator=generator)
    targets = torch.randint(150, (90,), generator=generator)
    with torch.no_grad():
        scored = linear_logprob(hidden, weight, targets, temperature=temperature)
    _loss, trained, *_gradients = in_one(hidden, weight, targets, torch.ones(90), temperature=temperature)
    assert all(torch.equal(a, b) for a, b in zip(scored, trained, strict=True))


def surprising(temperature: float, *surprises: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weight and targets of rows whose log-probs are minus these, up to what the target itself adds."""
    generator = torch.Generator().manual_seed(5)
    hidden, weight = (torch.randn(n, 16, generator=generator) for n in (len(surprises), 130))
    weight[:, 0], weight[7] = 0.0, 0.0
    weight[7, 0] = 1.0
    logits = hidden @ weight.T
    logits[:, 7] = -torch.inf
    hidden[:, 0] = temperature * (torch.logsumexp(logits / temperature, 1) - torch.tensor(surprises))
    return hidden, weight, torch.full((len(surprises),), 7)


def rounds_of_writing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often each launch was told to write."""
    rounds = []
    write = fused_kernels.write_tiles

    def spy(*arguments: Any, exponentials: Any, **options: Any) -> None:
        rounds.append(int(exponentials.rounds))
        write(*arguments, exponentials=exponentials, **options)

    monkeypatch.setattr(fused_kernels, "write_tiles", spy)
    return rounds


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(
    ("surprises", "again"), [((0.0, 20.0, 50.0), 0), ((3.0, 200.0, 1.0), 1), ((120.0, 90.0, 2000.0), 1)]
)
def test_a_target_that_is_hardly_possible_costs_a_second_launch_and_nothing_else(
    surprises: tuple[float, ...], again: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = rounds_of_writing(monkeypatch)
    hidden, weight, targets = surprising(temperature, *surprises)
    slopes = torch.tensor([1.0, -0.5, 2.0])
    loss, _stats, *gradients = in_one(hidden, weight, targets, slopes, temperature=temperature)
    assert rounds == [1, again]
    expected = exact(hidden, weight, targets, slopes, temperature)
    largest = float((hidden @ weight.T).abs().max()) / temperature
    for found, value in zip((loss, *gradients), expected, strict=True):
        assert_close(found, value, largest)
    for row in range(3):  # none of which hides behind another
        assert_close(gradients[0][row], expected[1][row], largest)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_second_launch_begins_at_a_log_prob_of_84(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = rounds_of_writing(monkeypatch)
    for surprise in (84.0, 85.5):
        in_one(*surprising(temperature, surprise), torch.ones(1), temperature=temperature)
    assert rounds == [1, 0, 1, 1]


@pytest.mark.parametrize("off_by", [-300.0, 300.0, torch.inf, torch.nan])
def test_a_reference_that_is_far_off_costs_a_second_launch_and_nothing_else(
    off_by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the rounding of large logits to 16 bits makes it, at a low temperature above all; of one row among others."""
    rounds, logits = rounds_of_writing(monkeypatch), exponentials._logits
    one_of_three = torch.tensor([0.0, off_by, 0.0])
    monkeypatch.setattr(exponentials, "_logits", lambda *rest: logits(*rest) + one_of_three)
    hidden, weight, targets = surprising(1.0, 1.0, 5.0, 30.0)
    loss, _stats, *gradients = in_one(hidden, weight, targets, torch.ones(3))
    assert rounds == [1, 1]
    for found, value in zip((loss, *gradients), exact(hidden, weight, targets, torch.ones(3), 1.0), strict=True):
        assert_close(found, value, 30.0)


@pytest.mark.parametrize("level", [-300.0, 300.0])
def test_a_target_among_the_padding_leaves_the_gradients_numbers(level: float) -> None:
    """As from logits: what it means is nobody's to say, but it must not spoil the other rows."""
    generator = torch.Generator().manual_seed(15)
    hidden, weight = torch.randn(3, 16, generator=generator), torch.randn(70, 16, generator=generator)
    hidden[:, 0], weight[:, 0] = 1.0, level
    found = in_one(hidden, weight, torch.tensor([3, 69, 4]), torch.tensor([1.0, 0.0, 1.0]), vocab_size=60)
    assert all(x.isfinite().all() for x in found[2:]) and found[2].abs().sum(1).gt(0).tolist() == [True, False, True]


def test_a_launch_of_no_rounds_writes_nothing() -> None:
    hidden, weight, targets = surprising(1.0, 1.0, 2.0, 3.0)
    tiles, num_programs = tiles_and_programs(hidden)
    partials, values = fused_kernels.empty_partials(hidden, weight, tiles).fill_(7.0), torch.full((3, 144), 7.0)
    for rounds in (0, 1):
        written = fused_kernels.Exponentials(values, torch.zeros(3), torch.tensor(rounds, dtype=torch.int32))
        rest = (hidden, weight, targets, 0, 130, 1.0, tiles)
        fused_kernels.write_tiles(partials, *rest, num_programs=num_programs, exponentials=written)
        assert bool((partials == 7).all()) is bool((values[:, :130] == 7).all()) is (rounds == 0)
    assert (values[:, 130:] == 7).all(), "behind the last column"


def test_where_the_target_is_nearly_certain_its_gradient_keeps_its_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 - p comes from the log-prob: as a difference of what is written, rounded as on a GPU, it would be noise."""
    write, logits = fused_kernels.write_tiles, exponentials._logits

    def rounded(*arguments: Any, exponentials: Any, **options: Any) -> None:
        write(*arguments, exponentials=exponentials, **options)
        exponentials.values_TV.copy_(exponentials.values_TV.bfloat16())

    monkeypatch.setattr(fused_kernels, "write_tiles", rounded)
    monkeypatch.setattr(exponentials, "_logits", lambda *rest: logits(*rest) + 0.3)
    hidden, weight = torch.zeros(1, 8), torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    hidden[0, 0], weight[:, 0], weight[3, 0] = 1.0, 0.0, 12.0
    found = in_one(hidden, weight, torch.tensor([3]), torch.ones(1))
    expected = exact(hidden, weight, torch.tensor([3]), torch.ones(1), 1.0)
    assert -1e-3 < float(found[0]) < 0
    for a, b in zip(found[2:], expected[1:], strict=True):
        assert float((a.double() - b).norm() / b.norm()) <= 5e-3


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logits_too_small_for_float32_count_as_columns_that_are_not_there(temperature: float) -> None:
    generator = torch.Generator().manual_seed(12)
    hidden, weight = torch.randn(4, 16, generator=generator), torch.randn(200, 16, generator=generator)
    hidden[:, 0], weight[:, 0] = 1e20, 0.0
    forbidden = torch.arange(200) % 3 == 2
    forbidden[64:128] = True  # a whole tile
    weight[forbidden, 0] = -1e20
    targets, slopes = torch.tensor([0, 4, 7, 199]), torch.ones(4)
    loss, _stats, *gradients = in_one(hidden, weight, targets, slopes, temperature=temperature)
    expected = exact(hidden, weight, targets, slopes, temperature)
    assert_close(loss, expected[0], 40.0)
    for found, value in zip(gradients, expected[1:], strict=True):
        assert_close(found[:, 1:], value[:, 1:], 40.0)


def test_a_logit_that_is_no_number_spoils_its_own_row_only() -> None:
    generator = torch.Generator().manual_seed(13)
    hidden, weight = torch.randn(3, 16, generator=generator), torch.randn(70, 16, generator=generator)
    hidden[1, 5] = torch.nan
    loss, stats, by_hidden, _by_weight = in_one(hidden, weight, torch.tensor([3, 4, 69]), torch.ones(3))
    assert loss.isnan() and stats.logprob_T.isnan().tolist() == [False, True, False]
    assert by_hidden[[0, 2]].isfinite().all() and by_hidden[1].isnan().all()


def test_every_value_is_written_whatever_the_memory_held(monkeypatch: pytest.MonkeyPatch) -> None:
    aligned_rows = in_forward._aligned_rows
    monkeypatch.setattr(in_forward, "_aligned_rows", lambda *rest: aligned_rows(*rest).fill_(torch.nan))
    generator = torch.Generator().manual_seed(14)
    hidden, weight = torch.randn(50, 16, generator=generator), torch.randn(100, 16, generator=generator)
    found = in_one(hidden, weight, torch.arange(50), torch.ones(50), vocab_size=90)
    assert all(x.isfinite().all() for x in (found[0], *found[1], *found[2:]))


def test_float16_and_slopes_of_entropies_take_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    taken: list[torch.dtype] = []
    row_partials = in_forward.row_partials

    def noting(logits: torch.Tensor, *rest: Any) -> torch.Tensor:
        taken.append(logits.dtype)
        return row_partials(logits, *rest)

    monkeypatch.setattr(in_forward, "row_partials", noting)
    monkeypatch.setattr(in_forward, "row_exponentials", None)
    hidden, weight, targets = torch.randn(5, 16), torch.randn(70, 16), torch.arange(5)
    in_one(hidden.half(), weight.half(), targets, torch.ones(5))
    in_one(hidden, weight, targets, torch.ones(5), entropy_slopes_T=torch.ones(5))
    assert taken == [torch.float32, torch.float32]


def test_torch_sees_schema_and_shapes_of_both_ops() -> None:
    hidden, weight, targets = surprising(1.0, 1.0, 2.0, 3.0)
    values = torch.zeros(40, 144)[7:10, :130]
    for op, needed in ((exponentials.exponentials, ()), (exponentials.exponentials_again, (torch.tensor(True),))):
        arguments = (values, hidden, weight, targets, torch.zeros(3), *needed, 0, 130, 1.0)
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


def test_shards_of_the_vocabulary_give_what_the_whole_gives() -> None:
    run_on_gloo(compare_token_loss_shards, 2)


@pytest.mark.parametrize("level", [-300.0, 300.0])
def test_shards_whose_logits_are_all_far_from_zero_need_no_second_launch(level: float) -> None:
    run_on_gloo(compare_shards_of_distant_logits, 2, level)
