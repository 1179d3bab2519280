"""Whole runs disturbed by a lost server or sampled out of step or by colocated servers, held against a plain one."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from egrc_mega.checkpoint.store import read_state
from egrc_mega.config.load import load_config
from egrc_mega.rollout.start.process import embedded_server
from egrc_mega.soak.laws import require_same_weights
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.runs import events, finish_run, kill_after_a_step, progress, start_run

pytestmark = pytest.mark.long_file

TIS = ("stages.compress.loss.tis_cap=2", "stages.explore.loss.tis_cap=2")
LOST = ("rollout.num_servers=2", "sync.transport=distributed", "sync.verify_every=2")
AHEAD = ("rollout.mode=ahead", *TIS)
OVER = ("rollout.over_sampling=1.5", "rollout.partial_rollouts=true", "rollout.environment=null", *AHEAD)


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the same seed, two at a time."""
    base = tmp_path_factory.mktemp("runs")
    folders = {name: base / name for name in ("undisturbed", "lost", "ahead", "ahead lost", "over")}
    first = start_run(root, folders["undisturbed"], overrides=TIS)
    second = start_run(root, folders["lost"], overrides=(*LOST, *TIS))
    kill_after_a_step(second, folders["lost"])
    finish_run(first)
    finish_run(second)
    third = start_run(root, folders["ahead"], overrides=AHEAD)
    fourth = start_run(root, folders["over"], overrides=OVER)
    finish_run(third)
    fifth = start_run(root, folders["ahead lost"], overrides=(*AHEAD, "rollout.num_servers=2"))
    kill_after_a_step(fifth, folders["ahead lost"])
    finish_run(fourth)
    finish_run(fifth)
    return folders


@pytest.fixture(scope="module")
def colocated(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeServer]]:
    """A run with a server that frees its memory; what it is asked to do."""
    base = tmp_path_factory.mktemp("colocated")
    model = load_config(root / "configs/quickstart.yaml").config.model.path
    child = embedded_server(model, port=0, weight_version="start", max_batch_size=256, log=base / "server.log")
    try:
        with FakeServer(upstream=child.wait_until_ready(60)) as fake:
            overrides = ("rollout.server=external", f'rollout.urls=["{fake.url}"]', "rollout.colocated=true", *TIS)
            finish_run(start_run(root, base / "run", overrides=overrides))
            yield base / "run", fake
    finally:
        child.stop()


def test_a_colocated_server_sleeps_through_every_training_step(
    runs: dict[str, Path], colocated: tuple[Path, FakeServer]
) -> None:
    run, fake = colocated
    memory = [call for call in fake.calls if "memory" in call]
    a_step = ["/release_memory_occupation kv_cache weights"]
    a_step += [f"/resume_memory_occupation {part}" for part in ("weights", "kv_cache")]
    assert memory == a_step * 6
    require_same_weights(runs["undisturbed"], run)


def test_a_server_killed_in_a_run_changes_no_bit_of_the_weights(runs: dict[str, Path]) -> None:
    steps = events(runs["lost"], "step")
    assert steps[-1]["server_restarts"] == 1
    lost, back = [line for step in steps for line in step["server_events"]]
    (restarted,) = read_state(max((runs["lost"] / "checkpoints").glob("step_*")))["spent"]["restarts"]
    assert 0 < restarted < 3600, "a resume goes on with what is left of the budget"
    assert lost.startswith("server 1 is fenced: http://") and back.startswith("server 1 serves again, at http://")
    require_same_weights(runs["undisturbed"], runs["lost"])


@pytest.mark.full  # its control calls have half a minute each
@pytest.mark.timeout(600)
def test_a_server_stopped_in_a_run_changes_no_bit_of_the_weights(
    runs: dict[str, Path], root: Path, tmp_path: Path
) -> None:
    patience = ("rollout.num_servers=2", "rollout.silence_timeout_s=3", *TIS)
    run = start_run(root, tmp_path / "run", overrides=patience)
    kill_after_a_step(run, tmp_path / "run", number=signal.SIGSTOP)
    finish_run(run, timeout_s=400)
    assert events(tmp_path / "run", "step")[-1]["server_restarts"] == 1
    require_same_weights(runs["undisturbed"], tmp_path / "run")


def test_a_server_killed_while_a_run_samples_ahead_changes_no_step_prompt_or_count(
    runs: dict[str, Path],
) -> None:
    assert events(runs["ahead lost"], "step")[-1]["server_restarts"] == 1
    assert progress(runs["ahead lost"]) == progress(runs["ahead"])
    assert progress(runs["ahead"])["position"]["step_000006"] == {"cursor": 24, "carried": []}


def test_one_step_ahead_begins_with_the_same_loss_and_is_never_more_than_one_step_behind(
    runs: dict[str, Path],
) -> None:
    plain, ahead = events(runs["undisturbed"], "step"), events(runs["ahead"], "step")
    assert ahead[0]["loss"] == plain[0]["loss"]
    # a stage's first batch is sampled after the last one's evaluation
    assert [step["version_lag_max"] for step in ahead] == [0, 1, 1, 0, 1, 1]
    assert all("time_rollout_ahead_s" in step for step in ahead if step["version_lag_max"])
    assert [step["step"] for step in ahead] == [step["step"] for step in plain]
    assert [step["groups"] for step in ahead] == [4] * 6


def test_an_over_sampled_run_trains_whole_groups_and_asks_for_every_prompt(runs: dict[str, Path]) -> None:
    steps = events(runs["over"], "step")
    assert [step["groups"] for step in steps] == [4] * 6
    assert all(step["sampled_groups"] >= 6 for step in steps)
    assert sum(step["carried_groups"] for step in steps) > 0
    assert all(step["version_lag_max"] <= 2 for step in steps)


def test_every_step_says_what_the_servers_did(runs: dict[str, Path]) -> None:
    for step in events(runs["lost"], "step"):
        assert step["requests_in_flight"] == 16
        assert len(step["server_tokens_per_s"]) == 2
        assert step["version_lag_max"] == 0
    assert any(all(rate > 0 for rate in step["server_tokens_per_s"]) for step in events(runs["lost"], "step"))
