"""Two ranks killed at random moments, of which many lie in a save: `scripts/kill_record.py` makes the long record."""

from pathlib import Path

import pytest

from egrc_mega.testing.gloo import HANG_LIMIT_S
from egrc_mega.testing.random_kills import random_kills

NUM_KILLS = 20


@pytest.mark.full
@pytest.mark.timeout(2 * HANG_LIMIT_S)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_ranks_killed_at_random_moments_go_on_from_the_newest_whole_step_with_the_same_bits(
    tmp_path: Path, asynchronous: bool
) -> None:
    kills = list(random_kills(tmp_path, seed=NUM_KILLS, count=NUM_KILLS, asynchronous=asynchronous))
    assert len(kills) == NUM_KILLS and any(kill.resumed for kill in kills)
