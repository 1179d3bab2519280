"""EE, the control: each group of a batch trains with one of EGRC's two objectives."""

import pytest

from egrc_mega.methods.compress import CompressSection
from egrc_mega.methods.entangled import EntangledSection
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import build_method
from egrc_mega.testing.samples import make_group, make_sample, view_of
from egrc_mega.types import Grade, Group

WRONG, UNGRADED = Grade.WRONG, Grade.UNGRADED
COMPRESS = {"clip_len": 8, "shape": {"r": 0.25}}
EXPLORE = {"clip_len": 8}


def graded(letters: str) -> Group:
    """A group of 4, 5, 6 ... tokens by its verdicts."""
    grades = {"R": Grade.RIGHT, "W": WRONG, "U": UNGRADED}
    return make_group([make_sample(range(4 + i), grade=grades[letter]) for i, letter in enumerate(letters)])


@pytest.mark.parametrize(
    ("letters", "compresses"),
    [("RW", True), ("RRW", True), ("RWW", False), ("RR", True), ("WW", False), ("RWU", True), ("RWWU", False)],
)
def test_groups_of_half_right_answers_or_more_compress_and_the_others_explore(letters: str, compresses: bool) -> None:
    method = build_method(EntangledSection(compress=COMPRESS, explore=EXPLORE))
    chosen = build_method(CompressSection(**COMPRESS) if compresses else ExploreSection(**EXPLORE))
    group = graded(letters)
    [row], [expected] = method.credit([group], view_of(method)), chosen.credit([group], view_of(chosen))
    assert [(c.advantage, c.reward, c.kept) for c in row] == [(c.advantage, c.reward, c.kept) for c in expected]


def test_both_objectives_stand_in_one_batch_and_are_counted() -> None:
    method = build_method(EntangledSection(compress=COMPRESS, explore=EXPLORE))
    groups = [graded("RW"), graded("RWWW"), graded("WW"), graded("UU")]
    rows = method.credit(groups, view_of(method))
    # .25^(4/8) = .5 for the right one, the wrong one is dropped
    assert [(c.advantage, c.kept) for c in rows[0]] == [(pytest.approx(0.5), True), (0.0, False)]
    # 1.2 against three of .2: mean .45, unbiased std .5
    assert [c.advantage for c in rows[1]] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)
    assert [c.kept for row in rows[2:] for c in row] == [False] * 4
    assert method.metrics(groups, rows, view_of(method)) == {"compressing_groups": 1.0, "exploring_groups": 2.0}


def test_the_threshold_is_a_choice() -> None:
    method = build_method(EntangledSection(threshold=0.25, compress=COMPRESS, explore=EXPLORE))
    [row] = method.credit([graded("RWWW")], view_of(method))
    assert [c.kept for c in row] == [True, False, False, False]


def test_the_cap_is_that_of_the_objective_that_writes_more() -> None:
    assert build_method(EntangledSection(explore=EXPLORE)).longest == 16
    assert build_method(EntangledSection(explore=EXPLORE, rollout={"max_new_tokens": 9})).longest == 9


def test_groups_of_one_and_statistics_over_the_batch_are_refused() -> None:
    section = EntangledSection(explore={"advantage_scope": "batch"})
    assert [line.partition(":")[0] for line in build_method(section).problems()] == ["explore.advantage_scope"]
    assert [line.partition(":")[0] for line in build_method(EntangledSection(rollout={"n": 1})).problems()] == [
        "rollout.n"
    ]
