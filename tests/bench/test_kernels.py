"""The microbenchmark runs every op at toy size, and gives no figure to who is wrong. Not covered: figures on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed
from typer.testing import CliRunner

from egrc_mega.bench import peers
from egrc_mega.bench.kernels import BASELINES, MEANINGLESS, run, table, write
from egrc_mega.bench.ops import BUILDERS, Sizes
from egrc_mega.cli.main import app
from egrc_mega.errors import ConfigError

SIZES = Sizes(tokens=40, hidden=16, vocab=50, dtype=torch.float32)

pytestmark = pytest.mark.timeout(3100)
"""What hangs is ended; how long a busy machine takes is no verdict."""


@pytest.mark.parametrize("op", BUILDERS)
def test_every_op_passes_its_check_and_gets_its_figures(op: str) -> None:
    result = run([op], SIZES, ["eager"], rounds=2)
    rows = result["rows"]
    assert {(row["contender"], row["mode"]) for row in rows} >= {
        (name, mode) for name in ("egrc", "eager") for mode in ("forward", "backward")
    }
    for row in rows:
        assert row["verdict"] == "ok" and row["error"] <= 1e-5, row
        assert row["milliseconds"] > 0 and row["rate"] > 0 and row["ceiling_share"] > 0
    assert result["note"] == MEANINGLESS
    assert {"torch", "triton"} <= result["versions"].keys()


def test_who_is_wrong_gets_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "eager_swiglu", lambda x: 1.01 * x.chunk(2, -1)[0].sigmoid() * x.prod(-1, keepdim=True))
    monkeypatch.setattr("egrc_mega.bench.ops.swiglu", lambda x: torch.nn.functional.silu(x[:, :16]) * x[:, 16:] + 0.01)
    rows = run(["swiglu"], SIZES, [], rounds=1)["rows"]
    assert [row["verdict"] for row in rows] == ["wrong", "wrong"]
    assert all(row["milliseconds"] is None for row in rows)


def test_a_wrong_gradient_of_the_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.view_as(weight)

        @staticmethod
        def backward(ctx, gradient):
            return 1.01 * gradient

    right = peers.eager_linear_logprob
    monkeypatch.setattr(peers, "eager_linear_logprob", lambda h, w, *rest: right(h, Wrong.apply(w), *rest))
    rows = run(["linear_logprob"], SIZES, ["eager"], rounds=1)["rows"]
    found = {(row["contender"], row["mode"]): row["verdict"] for row in rows}
    assert found["eager", "forward"] == "ok"
    assert found["eager", "backward"] == found["eager", "loss"] == "wrong"
    assert found["egrc", "backward"] == found["egrc, gradients in forward", "loss"] == "ok"


def test_a_peer_that_fails_costs_nobody_else_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("its own bug")

    monkeypatch.setattr(peers, "eager_swiglu", lambda x: fails(x) if x.dtype == torch.float32 else x[:, :16])
    monkeypatch.setattr("egrc_mega.bench.ops.swiglu", lambda x: x[:, :16])
    rows = run(["swiglu"], SIZES, ["eager"], rounds=1)["rows"]
    assert {row["contender"]: row["verdict"] for row in rows} == {"egrc": "ok", "eager": "failed: RuntimeError"}


def test_who_does_not_compile_gets_no_figure_and_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise BackendCompilerFailed(inductor, RuntimeError("no linker"), None)

    def inductor() -> None: ...

    monkeypatch.setattr("egrc_mega.bench.ops.swiglu", fails)
    rows = run(["swiglu"], SIZES, ["eager"], rounds=1)["rows"]
    assert {row["contender"]: row["verdict"] for row in rows} == {"egrc": "does not compile", "eager": "ok"}


@pytest.mark.parametrize(
    ("ops", "baselines", "message"),
    [(["softmax"], [], "--op: softmax is unknown"), (["rope"], ["verl"], "--baseline: verl is unknown")],
)
def test_unknown_names_are_refused(ops: list[str], baselines: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(ops, SIZES, baselines, rounds=1)
    assert "liger" in BASELINES


def test_table_json_and_plot_are_written(tmp_path: Path) -> None:
    result = run(["rmsnorm"], SIZES, ["eager"], rounds=1)
    write(result, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "kernels.json").read_text()) == json.loads(json.dumps(result))
    assert (tmp_path / "out" / "kernels.txt").read_text() == table(result) + "\n"
    assert (tmp_path / "out" / "kernels.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_the_table() -> None:
    result = CliRunner().invoke(app, ["bench", "kernels", "--op", "rope", "--tokens", "8", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    assert "rope" in result.output and MEANINGLESS in result.output


def test_megatron_competes_and_who_cannot_is_named() -> None:
    # a process of its own, for megatron needs a process group
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "bench", "kernels", "--op", "logprob", "--rounds", "1"]
    command += ["--baseline", "megatron,liger"]
    # megatron's fusions would be compiled for this CPU first, which takes longer than all the rest
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    assert result.returncode == 0, result.stderr
    rows = {tuple(line.split()[:3]): line for line in result.stdout.splitlines() if line.startswith("logprob")}
    assert "GB/s" in rows["logprob", "megatron", "forward"]
    assert torch.cuda.is_available() or "without figures: liger" in result.stdout
