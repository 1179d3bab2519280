"""A rank of two that is killed, or computes an infinite number, inside an update."""

import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from egrc_mega.faults import UPDATE_POINTS
from egrc_mega.testing.gloo import exit_codes, run_on_gloo
from egrc_mega.testing.interrupted_worker import END, interrupted_updates, spoiled_gradients
from egrc_mega.testing.tiny_model import write_tiny_qwen2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the end of the same updates is, of ranks that nobody has killed."""
    room = tmp_path_factory.mktemp("undisturbed")
    run_on_gloo(interrupted_updates, 2, model, room, "")
    return room / END


@pytest.mark.parametrize("point", UPDATE_POINTS)
def test_a_rank_killed_in_an_update_ends_its_peer_and_a_resume_ends_bitwise_equal(
    point: str, model: Path, undisturbed: Path, tmp_path: Path
) -> None:
    survivor, killed = exit_codes(interrupted_updates, 2, model, tmp_path, f"{point}@2#1")
    assert killed == -signal.SIGKILL
    assert survivor == 1  # by an error of its own, long before any deadline
    assert [path.name for path in tmp_path.glob("step_*") if path.suffix != ".tmp"] == ["step_000001"]
    run_on_gloo(interrupted_updates, 2, model, tmp_path, "")
    found, expected = load_file(tmp_path / END), load_file(undisturbed)
    assert [name for name in expected if not found[name].equal(expected[name])] == []


def test_an_infinite_gradient_of_one_rank_stops_the_step_on_both(model: Path) -> None:
    run_on_gloo(spoiled_gradients, 2, model)
