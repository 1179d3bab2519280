"""A whole run killed while it writes a large checkpoint: servers, graders and all are gone, and `--resume` goes on."""

import random
import shutil
import time
from pathlib import Path

import psutil
import pytest

from egrc_mega.convert.companions import copy_companions
from egrc_mega.run_folder import is_held
from egrc_mega.soak.laws import require_no_process, require_same_weights, require_whole_step
from egrc_mega.testing.gloo import HANG_LIMIT_S
from egrc_mega.testing.runs import bytes_being_written, events, finish_run, start_run
from egrc_mega.testing.tiny_model import write_tiny_qwen2

NUM_KILLS = 3
LARGE = ("checkpoint.every=1", "evaluation.num_problems=2", "evaluation.max_new_tokens=8")
SHORT = tuple(f"stages.{stage}.rollout.max_new_tokens=24" for stage in ("compress", "explore"))


def write_large_model(folder: Path, base_model: Path) -> Path:
    """Ten million random parameters with the miniature's tokenizer: with Adam's moments 120 MB."""
    copy_companions(base_model, folder)
    size = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 6}
    written = write_tiny_qwen2(folder.with_name("weights"), **size, vocab_size=64, num_key_value_heads=2)
    for file in ("model.safetensors", "config.json"):
        shutil.copyfile(written / file, folder / file)
    return folder


@pytest.mark.usefixtures("true_processes")
@pytest.mark.full
@pytest.mark.timeout(3 * HANG_LIMIT_S)
def test_a_run_killed_inside_its_checkpoints_leaves_no_process_and_ends_bitwise_equal(
    root: Path, base_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    model = write_large_model(tmp_path / "model", base_model)
    overrides = (*LARGE, *SHORT, f"model.path={model}")
    finish_run(start_run(root, tmp_path / "undisturbed", overrides=overrides), timeout_s=HANG_LIMIT_S)
    run_dir, chance, num_torn, committed = tmp_path / "killed", random.Random(5), 0, 0
    extra: tuple[str, ...] = ()
    while num_torn < NUM_KILLS:
        started = time.time()
        run = start_run(root, run_dir, *extra, overrides=overrides)
        deadline, moment = time.monotonic() + 300, chance.randrange(1, 10**8)
        while bytes_being_written(run_dir, started) < moment:
            assert run.poll() is None and time.monotonic() < deadline
        # the servers' and graders' own children die with them
        family = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        run.communicate(timeout=30)
        require_no_process(family)
        assert not is_held(run_dir)
        committed = require_whole_step(run_dir, at_least=committed)
        num_torn += any(run_dir.glob("checkpoints/*.tmp"))
        extra = ("--resume",)
    finish_run(start_run(root, run_dir, *extra, overrides=overrides), timeout_s=HANG_LIMIT_S)
    assert len(events(run_dir, "resume")) >= NUM_KILLS
    require_same_weights(run_dir, tmp_path / "undisturbed")
