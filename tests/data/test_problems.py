"""The cursor is one integer: problems depend on seed and position, never on what was taken before."""

from egrc_mega.data.problems import ProblemSource
from egrc_mega.types import Problem

NUM_ROWS = 7
PROBLEMS = [Problem(key=f"train.jsonl:{i + 1}", text=f"{i} a + 1 = ?", answer=str(i + 1)) for i in range(NUM_ROWS)]


def source(seed: int = 3, *, shuffle: bool = True) -> ProblemSource:
    return ProblemSource(PROBLEMS, shuffle=shuffle, seed=seed)


def taken(problems: ProblemSource, places: range) -> list[str]:
    return [problems.take(place).key for place in places]


def test_any_order_of_the_positions_gives_the_same_problems() -> None:
    whole = taken(source(), range(20))
    again = source()
    assert [taken(again, range(start, start + 5)) for start in (15, 0, 5, 10)] == [
        whole[15:20],
        whole[0:5],
        whole[5:10],
        whole[10:15],
    ]


def test_every_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    problems = source()
    epochs = [taken(problems, range(epoch * NUM_ROWS, (epoch + 1) * NUM_ROWS)) for epoch in range(3)]
    assert all(sorted(order) == sorted(problem.key for problem in PROBLEMS) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3


def test_another_seed_gives_another_order() -> None:
    orders = [taken(source(seed), range(NUM_ROWS)) for seed in (1, 2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_without_shuffling_the_files_order_is_kept() -> None:
    assert taken(source(shuffle=False), range(5, 9)) == [
        "train.jsonl:6",
        "train.jsonl:7",
        "train.jsonl:1",
        "train.jsonl:2",
    ]
