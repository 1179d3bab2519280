"""gpu_all.sh walks through its parts at toy size; a part that hangs or crashes costs only itself.

Not covered: anything that needs a GPU.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.timeout(3100)


def walk(root: Path, out: Path, parts: str, seconds: int) -> tuple[list[dict], str]:
    """Rows and what was printed."""
    environment = os.environ | {
        "OUT": str(out),
        "PYTHON": sys.executable,
        "SECONDS_TOTAL": str(seconds),
        "WHEELS": "/nowhere",
        "PATIENCE": "20",  # a verdict must not depend on what else the machine does
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = ["bash", str(root / "benchmarks" / "gpu_all.sh"), parts]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()], result.stdout


@pytest.mark.program
def test_a_part_that_hangs_or_crashes_costs_only_itself(root: Path, tmp_path: Path) -> None:
    rows, printed = walk(root, tmp_path, "versions hang fused probe crash kernels liger small train", 2800)
    ends = {row["part"]: row["exit"] for row in rows if row["name"] == "ended"}
    assert ends.pop("hang") in (124, 137) and ends.pop("crash") == 134
    assert ends == dict.fromkeys(("versions", "fused", "probe", "kernels", "liger", "small", "train"), 0)
    figures = [row for row in rows if row["name"] != "ended"]
    assert not [row for row in figures if isinstance(row.get("error"), str)]
    # what a part had found before it ended stays; the hanging one's time may be over before it finds anything
    assert {row["part"] for row in figures} - {"hang"} == {*ends, "crash", "model"}
    assert {"ours", "ours, ragged"} <= {row["name"] for row in figures}
    assert sum("error_weight" in row for row in figures) >= 6
    named = {row["name"]: row for row in figures}
    assert named["sum of products in its own place"]["error"] < 1e-5
    assert max(named["attention over a ragged batch"]["errors"]) < 1e-4
    assert named["attention of lengths never seen before"]["without_cudnn_first_ms"] > 0
    assert named["profile of a ragged step"]["kernels"] > 0 and named["ours, ragged"]["grad_norm"] > 0
    assert named["parts"]["optimizer"] and any("joining alone" in name for name in named)
    assert {"rmsnorm 64, torch, both ways", "rmsnorm 64, both ways"} <= named.keys()
    assert len(list(tmp_path.iterdir())) <= 7
    table = (tmp_path / "table.txt").read_text()
    assert printed.endswith(table) and len(table.splitlines()) <= 60
    assert [line.split()[0] for line in table.splitlines()[:2]] == ["hang", "crash"]


@pytest.mark.program
def test_peers_and_the_miniature_run_too_and_tests_need_a_gpu(root: Path, tmp_path: Path) -> None:
    rows, _printed = walk(root, tmp_path, "compiled peer tests mini", 2800)
    ends = {row["part"]: row["exit"] for row in rows if row["name"] == "ended"}
    no_tests = int(pytest.ExitCode.NO_TESTS_COLLECTED)
    assert ends == {"compiled": 0, "peer": 0, "tests": no_tests, "mini": 0}
    figures = {row["name"]: row for row in rows if row["name"] != "ended"}
    assert not [row for row in figures.values() if isinstance(row.get("error"), str)]
    assert figures["hugging_face_compiled"]["seconds"] > 0
    assert figures["64x64 eager, loss and gradients"]["ms"] > 0
    assert figures["miniature"]["exit_code"] == 0 and len(figures["miniature"]["logprob_diff_max"]) == 2


def test_no_part_begins_when_the_time_is_over(root: Path, tmp_path: Path) -> None:
    rows, _printed = walk(root, tmp_path, "fused kernels", 1)
    assert [(row["part"], row["exit"]) for row in rows] == [(name, "no time left") for name in ("fused", "kernels")]


def test_memcheck_runs_where_compute_sanitizer_is_and_is_missed_by_name_elsewhere(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "mktemp", "mkdir", "rm", "tee", "cat", "timeout", "tail", "cut"):
        (programs / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(programs))
    rows, printed = walk(root, tmp_path / "without", "sanitizer", 100)
    assert [(row["part"], row["exit"]) for row in rows] == [("sanitizer", "compute-sanitizer is not here")]
    assert "sanitizer" in printed.splitlines()[-1], "the table has it"
    (programs / "compute-sanitizer").write_text('#!/usr/bin/env bash\necho "asked for: $*"\nexit 1\n')
    (programs / "compute-sanitizer").chmod(0o755)
    rows, printed = walk(root, tmp_path / "with", "sanitizer", 100)
    assert [(row["part"], row["exit"]) for row in rows] == [("sanitizer", 1)]
    assert "asked for: --tool memcheck --error-exitcode 1" in printed and "repeat" in printed


@pytest.fixture
def parts(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "argv", ["gpu_parts.py", "kernels"])
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.syspath_prepend(root / "benchmarks")
    spec = importlib.util.spec_from_file_location("gpu_parts", root / "benchmarks" / "gpu_parts.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_wrong_gradient_has_a_row_that_says_so_and_no_time(parts: ModuleType, tmp_path: Path) -> None:
    head = parts.Head(64, 64)
    logits = (head.x @ head.weight.T).double()
    exact = head.exact_gradients(torch.logsumexp(logits, 1))
    for number, scale in enumerate((1.0, 1.02)):

        def gradients(_size: int | None, number: int = number, scale: float = scale) -> tuple[torch.Tensor, ...]:
            live = [x.detach().requires_grad_() for x in (head.x, head.weight)]
            logp = torch.log_softmax(live[0] @ live[1].T, -1).gather(1, head.targets[:, None])[:, 0]
            by_x, by_weight = torch.autograd.grad(logp, live, head.slopes)
            return (by_x, scale * by_weight) if number else (scale * by_x, by_weight)

        parts.guarded("path", parts._checked, head, "path", gradients, None, exact)
    right, wrong = (json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines())
    assert right["ms"] > 0 and right["error_weight"] < 1e-4
    assert "wrong" in wrong["error"] and "ms" not in wrong


def test_a_figure_may_have_any_name(parts: ModuleType, tmp_path: Path) -> None:
    parts.record("device", name="card", value=1.23456789)
    assert json.loads((tmp_path / "results.jsonl").read_text())["value"] == 1.2346
