"""The command `egrc` as a user meets it: quick help, one line per error, exit codes, nothing half-written."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.main import get_command

from egrc_mega.miniature.base_model import REMADE_SHA256
from egrc_mega.observe.rollouts import RolloutLog
from egrc_mega.rollout.start.process import embedded_server
from egrc_mega.testing import forked
from egrc_mega.testing.rollouts import make_stored_group

pytestmark = pytest.mark.long_file


def egrc(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", *map(str, arguments)]
    return forked.run(command, cwd=cwd)


def test_neither_help_nor_a_typo_in_a_run_imports_anything_heavy(root: Path) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from egrc_mega.cli.main import app\n"
        "result = CliRunner().invoke(app, ['--help'])\n"
        "assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'transformers', 'megatron', 'matplotlib', 'numpy', 'aiohttp'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"typo = ['train', '-c', '{root}/configs/quickstart.yaml', '--set', 'run.sed=1', '--dry-run']\n"
        "assert 'did you mean seed?' in str(CliRunner().invoke(app, typo).exception)\n"
        "assert not {'torch', 'transformers', 'megatron'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_a_locale_that_cannot_read_utf8_is_none_to_us_and_to_what_we_start(utf8: str) -> None:
    code = (
        "import locale, os\n"
        "import egrc_mega.cli.main as main\n"
        "main.app = lambda: print(locale.getpreferredencoding(False), os.environ['PYTHONUTF8'])\n"
        "main.main()\n"
    )
    variables = os.environ | {"LC_ALL": "POSIX", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=variables)
    assert (result.returncode, result.stdout.lower()) == (0, "utf-8 1\n"), result.stderr


def test_the_options_are_the_documented_ones() -> None:
    """A frozen list: a new option is a decision, not an accident."""
    from egrc_mega.cli.main import app

    found = {}
    stack = [("egrc", get_command(app))]
    while stack:
        name, command = stack.pop()
        children = getattr(command, "commands", {})
        stack += [(f"{name} {child}", sub) for child, sub in children.items()]
        if not children:
            found[name] = sorted(option for p in command.params for option in p.opts if option.startswith("--"))
    assert found == {
        "egrc soak": ["--minutes", "--out", "--round", "--seed"],
        "egrc init": ["--answer-key", "--data", "--eval", "--instruction", "--model", "--prompt-key"],
        "egrc data fetch": ["--from", "--to"],
        "egrc train": [
            "--config",
            "--dry-run",
            "--fresh",
            "--master-addr",
            "--master-port",
            "--nnodes",
            "--node-rank",
            "--nproc-per-node",
            "--replay-rollouts",
            "--resume",
            "--resume-if-begun",
            "--rollouts-only",
            "--set",
            "--supervise",
            "--verbose",
        ],
        "egrc export": ["--out", "--step"],
        "egrc status": ["--json"],
        "egrc stop": [],
        "egrc plan": [
            "--gpu",
            "--gpus",
            "--json",
            "--mean-tokens",
            "--prompt-tokens",
            "--rollout-gpus",
            "--search",
            "--set",
        ],
        "egrc eval measure": [
            "--at-once",
            "--benchmarks",
            "--benchmarks-dir",
            "--cap",
            "--config",
            "--differences",
            "--gate",
            "--grader",
            "--label",
            "--max-new-tokens",
            "--n",
            "--online",
            "--out",
            "--profile",
            "--responses",
            "--seed",
            "--server",
            "--set",
            "--temperature",
            "--template",
            "--tokenizer",
            "--top-p",
            "--verdicts",
        ],
        "egrc eval compare": ["--base", "--benchmarks", "--format", "--plot"],
        "egrc eval paper": [],
        "egrc study": ["--jobs", "--report", "--retry-failed"],
        "egrc track": ["--to"],
        "egrc convert hf-to-megatron": [
            "--dtype",
            "--ep",
            "--first-stage-layers",
            "--last-stage-layers",
            "--pp",
            "--shard-size",
            "--tp",
        ],
        "egrc convert megatron-to-hf": ["--dtype", "--model", "--shard-size"],
        "egrc convert verify": ["--logits", "--model"],
        "egrc convert inspect": [
            "--ep",
            "--first-stage-layers",
            "--last-stage-layers",
            "--model",
            "--pp",
            "--tp",
        ],
        "egrc report": ["--out"],
        "egrc publish": ["--to"],
        "egrc watch": ["--port"],
        "egrc data inspect": [
            "--answer-key",
            "--answer-type",
            "--config",
            "--model",
            "--out",
            "--profile",
            "--prompt-key",
            "--set",
        ],
        "egrc rollouts": ["--group", "--step"],
        "egrc diagnose": [
            "--base",
            "--batch-tokens",
            "--block-gradients",
            "--config",
            "--full-gradients",
            "--instruction",
            "--max-tokens",
            "--out",
            "--step-mark",
        ],
        "egrc miniature make-base": [],
        "egrc miniature make-data": [],
        "egrc config explain": ["--config"],
        "egrc config schema": [],
        "egrc config show": ["--config", "--methods", "--set"],
        "egrc bench kernels": ["--baseline", "--dtype", "--hidden", "--op", "--out", "--rounds", "--tokens", "--vocab"],
        "egrc credit": ["--batch", "--config", "--groups", "--set", "--stage"],
        "egrc doctor": ["--config", "--json", "--set", "--url"],
        "egrc trace": ["--step", "--to"],
        "egrc top": ["--once"],
        "egrc grade": [
            "--gold",
            "--gold-key",
            "--grader",
            "--out",
            "--profile",
            "--prompt-thinks",
            "--response",
            "--response-key",
            "--verdict-key",
        ],
        "egrc serve status": [],
        "egrc stages replay": ["--config", "--plot", "--set"],
    }


def test_inspecting_data_prints_the_page_and_exits_as_a_run_would(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"problem": "1 + 1", "answer": "2"}\n{"problem": "1 + 2", "answer": ""}\n')
    result = egrc("data", "inspect", file)
    assert result.returncode == 3
    assert f"file     {file}: 2 rows, 1 of them quarantined" in result.stdout
    assert result.stderr.startswith(f"egrc: error: data file {file}: 1 of 2 rows are malformed")
    assert result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == [file]
    assert egrc("data", "inspect", file, "--out", tmp_path / "bad.jsonl").returncode == 3
    assert json.loads((tmp_path / "bad.jsonl").read_text())["line"] == 2


@pytest.mark.parametrize(
    ("overrides", "code", "expected"),
    [
        (["rollout.prompts_per_stp=3"], 2, "did you mean prompts_per_step?"),
        (["run.seed=abc"], 2, "run.seed: 'abc' is not usable"),
        (["model.path=/nowhere"], 4, "model.path: /nowhere is not a folder"),
        (["data.train=/nowhere.jsonl"], 3, "data.train: /nowhere.jsonl does not exist"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code_and_writes_nothing(
    root: Path, tmp_path: Path, overrides: list[str], code: int, expected: str
) -> None:
    run = tmp_path / "run"
    sets = [part for override in [f"run.dir={run}", *overrides] for part in ("--set", override)]
    result = egrc("train", "-c", root / "configs/quickstart.yaml", *sets)
    assert result.returncode == code
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("egrc: error: ")
    assert expected in result.stderr
    assert not run.exists()


def small_run(root: Path, run: Path, *overrides: str) -> subprocess.CompletedProcess:
    sets = [part for override in (f"run.dir={run}", *overrides) for part in ("--set", override)]
    return egrc("train", "-c", root / "configs/quickstart.yaml", *sets)


def test_a_vocabulary_that_does_not_match_is_one_line_and_leaves_no_run(
    root: Path, base_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(base_model, tmp_path / "model")
    config = json.loads((base_model / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"vocab_size": 39}))
    result = small_run(root, tmp_path / "run", f"model.path={tmp_path / 'model'}")
    assert result.returncode == 4, result.stderr
    assert result.stderr.splitlines()[-1].startswith("egrc: error: model.path: the tokenizer of ")
    assert "40 tokens, config.json says vocab_size = 39" in result.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "run.log"]


def test_a_port_in_use_is_one_line_and_leaves_only_the_servers_log(root: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = small_run(root, tmp_path / "run", f"rollout.port={port}")
    assert result.returncode == 5, result.stderr
    assert f"127.0.0.1:{port} cannot be used: Address already in use" in result.stderr.splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "logs", "run.log"]


def test_malformed_rows_are_quarantined_or_stop_the_run_with_file_and_line(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text('{"problem": "9 a + 1 = ?", "answer": "0"}\n{not json\n')
    result = small_run(root, tmp_path / "run", f"data.train={data}")
    assert result.returncode == 3, result.stderr
    line = result.stderr.splitlines()[-1]
    assert f"{data}: 1 of 2 rows" in line
    assert "line 2" in line
    assert "quarantine.jsonl" in line
    [row] = map(json.loads, (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines())
    assert row["line"] == 2


def test_resume_without_a_run_is_refused(root: Path, tmp_path: Path) -> None:
    result = egrc("train", "-c", root / "configs/quickstart.yaml", "--set", f"run.dir={tmp_path / 'no'}", "--resume")
    assert result.returncode == 7
    assert "holds no run to resume" in result.stderr


def test_ctrl_c_says_one_clear_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from egrc_mega.cli import main as cli
    from egrc_mega.report import build

    def interrupted(_run: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_report", interrupted)
    monkeypatch.setattr(sys, "argv", ["egrc", "report", "runs/mine"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130 and capsys.readouterr().err == "egrc: stopped\n"


def test_report_of_something_else_is_refused(tmp_path: Path) -> None:
    result = egrc("report", tmp_path)
    assert (result.returncode, result.stdout) == (7, "")
    assert "holds no metrics.jsonl" in result.stderr


def test_config_show_prints_yaml(root: Path) -> None:
    result = egrc("config", "show", "-c", root / "configs/quickstart.yaml", "--set", "rollout.port=4")
    assert result.returncode == 0
    assert "  port: 4  # --set" in result.stdout


def test_doctor_names_versions_and_the_backend() -> None:
    result = egrc("doctor")
    assert result.returncode == 0, result.stdout
    assert "megatron-core" in result.stdout
    assert "0.16.1" in result.stdout
    assert "gloo" in result.stdout or "NCCL" in result.stdout
    for purpose in ("linear", "attention", "norm", "weight gradients", "optimizer"):
        assert f"\n  {purpose}: " in result.stdout
    for check in (
        "gpu",
        "nccl",
        "servers' environment",
        "the name kernels",
        "disk",
        "shared memory",
        "open files",
        "clock",
    ):
        assert re.search(rf"^(ok  |warn)  {check} +\S", result.stdout, re.M), check


def test_conversion_to_megatron_and_back_is_bitwise_and_refuses_to_overwrite(base_model: Path, tmp_path: Path) -> None:
    megatron, back = tmp_path / "megatron", tmp_path / "back"
    result = egrc("convert", "hf-to-megatron", base_model, megatron, "--tp", 2, "--pp", 2)
    assert result.returncode == 0, result.stderr
    assert re.match(r"hf-to-megatron: [\d.]+ [kM]B in [\d.]+ s \([\d.]+ [kM]B/s\): \S+", result.stderr)
    result = egrc("convert", "megatron-to-hf", megatron, back)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in back.iterdir()) == sorted(path.name for path in base_model.iterdir())
    for file in base_model.iterdir():
        assert (back / file.name).read_bytes() == file.read_bytes(), file.name
    result = egrc("convert", "verify", base_model, megatron, "--logits")
    assert result.returncode == 0, result.stderr
    assert "26 tensors are equal, bit by bit" in result.stdout
    assert "Loading weights" not in result.stderr
    assert float(result.stdout.split("at most ")[1].split()[0]) <= 1e-5
    again = egrc("convert", "hf-to-megatron", base_model, megatron)
    assert again.returncode == 4
    assert "exists already" in again.stderr
    wrong = egrc("convert", "megatron-to-hf", base_model, tmp_path / "x")
    assert wrong.returncode == 8
    assert "is no Megatron checkpoint" in wrong.stderr


def test_verify_names_the_first_difference_and_fails(base_model: Path, tmp_path: Path) -> None:
    half, megatron = tmp_path / "half", tmp_path / "megatron"
    assert egrc("convert", "hf-to-megatron", base_model, megatron, "--dtype", "bfloat16").returncode == 0
    assert egrc("convert", "megatron-to-hf", megatron, half, "--shard-size", "200KB").returncode == 0
    assert len(list(half.glob("model-*.safetensors"))) > 2
    result = egrc("convert", "verify", base_model, half)
    assert result.returncode == 8
    assert "differ: model.embed_tokens.weight: dtype torch.float32 and torch.bfloat16" in result.stderr


def test_inspect_shows_names_shapes_and_the_parameters_of_each_rank(base_model: Path) -> None:
    result = egrc("convert", "inspect", base_model, "--tp", 2, "--pp", 2)
    assert result.returncode == 0, result.stderr
    assert "225,888 parameters, float32" in result.stdout
    assert "decoder.layers.mlp.linear_fc1.weight                        [576, 96]  [288, 96]" in result.stdout
    assert "  stage 1, layers 1 to 1: " in result.stdout
    preset = egrc("convert", "inspect", "deepseek-r1-distill-qwen-7b", "--tp", 4)
    assert "7,615,616,512 parameters, bfloat16" in preset.stdout
    wrong = egrc("convert", "inspect", base_model, "--tp", 3, "--ep", 2)
    assert wrong.returncode == 4
    assert wrong.stderr.count("egrc: error: ") == 3


def rows_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of `egrc eval` that tell numbers, without the model's name."""
    return [line.split(" at T ")[1] for line in result.stdout.splitlines() if line.startswith("evaluation of ")]


def test_eval_measures_what_it_is_given_once_and_without_training_data(
    root: Path, base_model: Path, tmp_path: Path
) -> None:
    sets = ["--set", "evaluation.num_problems=8", "--set", "evaluation.max_new_tokens=60"]
    sets += ["--set", "data.train=/missing.jsonl"]
    config, out = root / "configs/quickstart.yaml", tmp_path / "out"
    result = egrc("eval", base_model, "-c", config, "--out", out, *sets)
    assert result.returncode == 0, result.stderr
    assert [row.split(":")[0] for row in rows_of(result)] == ["0.6", "1"]
    again = egrc("eval", base_model, "-c", config, "--out", out, *sets)
    assert [row.split(" (kept: measured before")[0] for row in rows_of(again)] == rows_of(result)
    assert again.stdout.count("(kept: measured before, with the same weights") == 2

    other = tmp_path / "other"
    shutil.copytree(base_model, other)
    tensors = load_file(other / "model.safetensors")
    save_file({name: -tensor for name, tensor in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    second = egrc("eval", other, "-c", config, "--out", out, *sets)
    assert f"evaluation of {other} at T 0.6: accuracy " in second.stdout
    assert "kept" not in second.stdout and rows_of(second) != rows_of(result)
    points = json.loads((out / "evaluation.json").read_bytes())["points"]
    assert [point["label"] for point in points] == [str(base_model)] * 2 + [str(other)] * 2
    page = egrc("report", out)
    assert page.returncode == 0, page.stderr
    assert "missing: metrics.jsonl (no curves)" in page.stderr

    # a server that somebody left with other weights is given the model's first
    server = embedded_server(other, port=0, weight_version="v7", max_batch_size=64, log=tmp_path / "log")
    try:
        sets += ["--set", "rollout.server=external", "--set", f"rollout.urls=[{server.wait_until_ready(60)}]"]
        external = egrc("eval", base_model, "-c", config, "--out", tmp_path / "again", *sets)
    finally:
        server.stop()
    assert external.returncode == 0, external.stderr
    assert rows_of(external) == rows_of(result)


def test_eval_of_a_megatron_checkpoint_says_how_to_convert_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    result = egrc("eval", tmp_path, "-c", root / "configs/quickstart.yaml", "--out", tmp_path / "out")
    assert result.returncode == 4
    assert "egrc convert megatron-to-hf" in result.stderr
    assert not (tmp_path / "out").exists()


def test_rollouts_of_a_step_are_shown_and_errors_say_what_there_is(tmp_path: Path) -> None:
    with RolloutLog(tmp_path / "rollouts", 10**6) as log:
        log.write(3, "explore", (make_stored_group(),))
    assert "steps 3:" in egrc("rollouts", tmp_path).stdout
    assert "train.jsonl:7" in egrc("rollouts", tmp_path, "--step", 3).stdout
    assert "thinking for 4 tokens </think> 1" in egrc("rollouts", tmp_path, "--step", 3, "--group", 0).stdout
    for options, code, message in (
        (("--step", 4), 7, "holds no step 4; it holds 3"),
        (("--step", 3, "--group", 1), 7, "step 3 has no group 1; it has 0 to 0"),
        (("--group", 1), 2, "--group: given without --step"),
    ):
        result = egrc("rollouts", tmp_path, *options)
        assert result.returncode == code
        assert message in result.stderr


def test_make_data_remakes_the_shipped_files(root: Path, tmp_path: Path) -> None:
    assert egrc("miniature", "make-data", tmp_path).returncode == 0
    for name in ("train.jsonl", "eval.jsonl"):
        shipped = root / "egrc_mega" / "miniature" / "assets" / name
        assert (tmp_path / name).read_bytes() == shipped.read_bytes()


@pytest.mark.full
@pytest.mark.timeout(1000)
def test_make_base_makes_the_pinned_model_bit_for_bit(base_model: Path, tmp_path: Path) -> None:
    """With the pinned versions on the same kind of processor; elsewhere compare evaluation figures."""
    other = ("model.safetensors", "manifest.sha256.json")
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "miniature", "make-base", str(tmp_path / "base")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, timeout=900, env=environment)
    for file in base_model.iterdir():
        assert file.name in other or (tmp_path / "base" / file.name).read_bytes() == file.read_bytes(), file.name
    assert hashlib.sha256((tmp_path / "base" / other[0]).read_bytes()).hexdigest() == REMADE_SHA256
