"""Short but whole runs of the command line: a kill, a resume, requests in another order, two ranks.

Not covered: quality of the trained model (the quickstart's table is); several machines are in launch/test_hosts.py.
"""

import gzip
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

from egrc_mega.errors import EgrcError, HangError
from egrc_mega.evaluation.fingerprint import fingerprint_of_folder
from egrc_mega.launch.export_step import export_step
from egrc_mega.launch.publish import publish
from egrc_mega.launch.top import Page
from egrc_mega.manifest import MANIFEST, write_manifest
from egrc_mega.observe.trace import write_trace
from egrc_mega.run_folder import is_held
from egrc_mega.soak.laws import require_same_weights
from egrc_mega.testing.documented import first_column, unexplained
from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.runs import events, finish_run, server_of, start_run
from egrc_mega.testing.scraped import scrape

pytestmark = pytest.mark.long_file

SECRETS = {name: f"{name}-c0ffee-4711" for name in ("EGRC_API_KEY", "EGRC_ADMIN_API_KEY", "WANDB_API_KEY")}


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the same seed, two at a time.

    Undisturbed; its requests shuffled, killed at a commit and started again by its supervisor, evaluated every other
    step on a spare server; killed and resumed; stopped within a step and resumed; on two ranks, stopped after a step
    by a terminal that closes and resumed; evaluated every other step in between. Beside them, asleep for most of the
    time, one of two ranks of which the second is stopped for ever: `hung`; what it has said is in `hung.log`.
    """
    base = tmp_path_factory.mktemp("runs")
    names = ("undisturbed", "shuffled", "killed", "stopped", "tp2", "evaluated", "hung")
    folders = {name: base / name for name in names}
    # long for a miniature whose machine is busy, and short for what the other runs take
    limit, stop = ("policy.distributed_timeout_s=45",), "train.before_update@2=SIGSTOP#1"
    limit = (*limit, "observe.prometheus_port=0", "checkpoint.every=1")
    hung = start_run(root, folders["hung"], "--nproc-per-node", "2", faults=stop, overrides=limit)
    first = start_run(root, folders["undisturbed"])
    # between the update of step 4 and its checkpoint: step 3 closed the stage and is committed
    second = start_run(root, folders["killed"], faults="train.before_commit@4")
    look_at(folders["hung"], hung)
    finish_run(first)
    finish_run(second, expected=-signal.SIGKILL)
    faults = "rollout.shuffle_requests,train.after_commit@2"
    overrides = ("supervisor.backoff_s=0.1", "evaluation.every=2", "evaluation.spare={}", "evaluation.best={}")
    third = start_run(root, folders["shuffled"], "--supervise", faults=faults, overrides=overrides, variables=SECRETS)
    fourth = start_run(root, folders["killed"], "--resume")
    (base / "shuffled.log").write_text(finish_run(third))
    finish_run(fourth)
    fifth = start_run(root, folders["stopped"], overrides=("run.stop_grace_s=0",))
    output = stop_after_a_step(fifth, folders["stopped"])
    assert re.search(
        r"^egrc: stopped by SIGTERM after step [1-5], which is committed; go on with --resume$", output, re.M
    )
    sixth = start_run(root, folders["stopped"], "--resume-if-begun")
    overrides = ("megatron.tensor_model_parallel_size=2",)
    command = ("--nproc-per-node", "2", "--resume-if-begun")
    seventh = start_run(root, folders["tp2"], *command, overrides=overrides)
    stop_after_a_step(seventh, folders["tp2"], signal.SIGHUP)
    finish_run(sixth)
    finish_run(start_run(root, folders["tp2"], *command, overrides=overrides))
    own = {
        "data": str(root / "egrc_mega/miniature/assets/eval.jsonl"),
        "num_problems": 2,
        "n": 2,
        "temperatures": [0.8],
    }
    evaluated = ("evaluation.every=2", f"evaluation.sets.own={orjson.dumps(own).decode()}")
    evaluated += ("observe.profile_steps=[2,3]", "observe.memory_steps=[2,2]")
    finish_run(start_run(root, folders["evaluated"], overrides=evaluated))
    (base / "hung.log").write_text(finish_run(hung, expected=HangError.exit_code))
    return folders


def look_at(folder: Path, run: "subprocess.Popen[str]") -> None:
    """Keep what `egrc top` and the endpoint say of a run that hangs, beside its folder: no step follows the first.

    And the first step, exported while the run has not ended.
    """
    wait_for_a_step(run, folder)
    wait_until(run, (folder / "checkpoints" / "latest").exists)
    export_step(folder, "1", folder.with_suffix(".export"), print)
    assert is_held(folder)
    (url,) = re.findall(r"metrics for Prometheus at (\S+)", (folder / "run.log").read_text())
    samples = {name: value for (name, labels), value in scrape(url).items() if not labels}
    folder.with_suffix(".json").write_bytes(orjson.dumps(samples))
    page, deadline = Page(folder), time.monotonic() + 15
    while "SERVERS  nothing" in (text := "\n".join(page.lines())) and time.monotonic() < deadline:
        time.sleep(0.1)
    folder.with_suffix(".top").write_text(text)


def wait_for_a_step(run: "subprocess.Popen[str]", folder: Path) -> None:
    """Return once the run has recorded one."""
    wait_until(run, lambda: (folder / "metrics.jsonl").exists() and bool(events(folder, "step")))


def wait_until(run: "subprocess.Popen[str]", is_there: Callable[[], bool]) -> None:
    """Return once the run has made what is asked for."""
    deadline = time.monotonic() + 240
    while not is_there():
        assert time.monotonic() < deadline and run.poll() is None, "the run never made the step"
        time.sleep(0.02)


def stop_after_a_step(run: "subprocess.Popen[str]", folder: Path, number: int = signal.SIGTERM) -> str:
    """Send a signal to the command once a step is recorded; what it says before it ends with 75.

    SIGHUP its server is sent, too: a terminal that closes tells the whole family.
    """
    wait_for_a_step(run, folder)
    for process in (server_of(folder, 0), run) if number == signal.SIGHUP else (run,):
        process.send_signal(number)
    return finish_run(run, expected=75)


def test_a_killed_and_resumed_run_ends_with_bitwise_equal_weights(runs: dict[str, Path]) -> None:
    assert [event["step"] for event in events(runs["killed"], "step")] == [1, 2, 3, 4, 4, 5, 6]
    assert len(events(runs["killed"], "resume")) == 1
    assert "resuming from step 3: checkpoints/step_000003" in (runs["killed"] / "run.log").read_text()
    require_same_weights(runs["killed"], runs["undisturbed"])


def test_a_run_stopped_within_a_step_has_committed_and_ends_with_bitwise_equal_weights(runs: dict[str, Path]) -> None:
    steps = [event["step"] for event in events(runs["stopped"], "step")]
    assert steps == [1, 2, 3, 4, 5, 6]  # what was recorded was committed, and is not done again
    assert len(events(runs["stopped"], "resume")) == 1
    require_same_weights(runs["stopped"], runs["undisturbed"])


def test_of_two_ranks_that_end_by_an_error_torchrun_says_nothing(runs: dict[str, Path]) -> None:
    said = runs["hung"].with_suffix(".log").read_text()
    assert "egrc: error: " in said
    assert [word for word in ("torch/distributed/elastic", "Root Cause") if word in said] == []


def test_two_ranks_stop_together_and_go_on_with_the_next_step(runs: dict[str, Path]) -> None:
    assert [event["step"] for event in events(runs["tp2"], "step")] == [1, 2, 3, 4, 5, 6]
    assert len(events(runs["tp2"], "resume")) == 1


def test_a_supervised_run_is_started_again_where_it_was_killed(runs: dict[str, Path]) -> None:
    assert [event["step"] for event in events(runs["shuffled"], "step")] == [1, 2, 3, 4, 5, 6]
    (restart,) = events(runs["shuffled"], "restart")
    assert restart["reason"] == "signal 9 in step 3"


def test_keys_stand_in_no_file_of_a_run_and_in_nothing_that_it_says(runs: dict[str, Path]) -> None:
    files = [path for path in runs["shuffled"].rglob("*") if path.is_file()]
    assert {"metrics.jsonl", "run.log", "environment.json", "config.yaml", "report.html"} <= {f.name for f in files}
    assert [f for f in (*files, runs["shuffled"].with_suffix(".log")) if b"c0ffee-4711" in f.read_bytes()] == []


def test_the_order_of_the_requests_does_not_matter(runs: dict[str, Path]) -> None:
    require_same_weights(runs["shuffled"], runs["undisturbed"])


def test_a_replay_of_a_runs_rollouts_ends_with_bitwise_equal_weights(
    runs: dict[str, Path], root: Path, tmp_path: Path
) -> None:
    # its data are gone, and no server could start
    overrides = ("data.train=/nowhere", "rollout.server=sglang", "rollout.python=/nowhere")
    replay = ("--replay-rollouts", str(runs["undisturbed"]))
    finish_run(start_run(root, tmp_path / "run", *replay, overrides=overrides))
    require_same_weights(tmp_path / "run", runs["undisturbed"])
    sampled, replayed = (events(folder, "step") for folder in (runs["undisturbed"], tmp_path / "run"))
    for name in (
        "reward",
        "accuracy",
        "length",
        "length_sampled",
        "kept",
        "loss",
        "grad_norm",
        "kl",
        "logprob_diff_max",
    ):
        assert [step[name] for step in replayed] == [step[name] for step in sampled], name
    again, first = (folder / "rollouts/step_000006.safetensors" for folder in (tmp_path / "run", runs["undisturbed"]))
    assert again.read_bytes() == first.read_bytes()
    states = [
        sorted((f / "checkpoints").glob("step_*"))[-1] / "state.json" for f in (tmp_path / "run", runs["undisturbed"])
    ]
    assert len({orjson.dumps(orjson.loads(state.read_bytes())["position"]) for state in states}) == 1


def test_evaluations_between_the_steps_change_no_bit_of_the_weights_and_no_step(runs: dict[str, Path]) -> None:
    require_same_weights(runs["evaluated"], runs["undisturbed"])
    evaluated, plain = (events(runs[name], "step") for name in ("evaluated", "undisturbed"))
    for field in ("length", "entropy", "grad_norm", "requests_in_flight"):
        assert [step[field] for step in evaluated] == [step[field] for step in plain], field


def test_a_profile_of_some_steps_is_a_trace_of_torchs_operations_and_changes_no_bit(runs: dict[str, Path]) -> None:
    (file,) = (runs["evaluated"] / "profile").iterdir()
    assert file.name == "trace_steps_2-3_rank_00000.json.gz"
    names = {event.get("name") for event in orjson.loads(gzip.decompress(file.read_bytes()))["traceEvents"]}
    assert "aten::mm" in names
    said = (runs["evaluated"] / "run.log").read_text()
    assert said.count("observe.memory_steps: no snapshot is made, for this machine has no CUDA") == 1
    require_same_weights(runs["evaluated"], runs["undisturbed"])


def test_what_was_measured_within_a_stage_stands_in_events_and_table_under_its_set(runs: dict[str, Path]) -> None:
    points = orjson.loads((runs["evaluated"] / "evaluation.json").read_bytes())["points"]
    found = [(point["step"], point["set"], point["temperature"], point["n"], point["within"]) for point in points]
    rows = [("", 0.6, 8), ("", 1.0, 8), ("own", 0.8, 4)]
    assert found == [(step, *row, step in (2, 4)) for step in (0, 2, 3, 4, 6) for row in rows]
    told = [(event["step"], event["set"]) for event in events(runs["evaluated"], "evaluation")]
    assert told == [row[:2] for row in found]
    assert (runs["evaluated"] / "evaluation_samples.jsonl").read_bytes().count(b"\n") == len(points)


def test_what_a_spare_server_has_measured_of_a_run_that_was_killed_is_what_is_measured_in_between(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    beside, between = (orjson.loads((runs[n] / "evaluation.json").read_bytes()) for n in ("shuffled", "evaluated"))
    own = [point for point in between["points"] if not point["set"]]
    assert beside["points"] == own and beside["protocols"].keys() == {point["protocol"] for point in own}
    # the best step by late numbers was kept for them, and nothing else is left of them
    decided = [point for point in own if point["temperature"] == 0.6 and point["step"]]
    best = max(decided, key=lambda point: (point["accuracy"], -point["step"]))
    checkpoints = runs["shuffled"] / "checkpoints"
    assert (checkpoints / "best").read_text() == f"step_{best['step']:06d}"
    assert (checkpoints / f"step_{best['step']:06d}" / "manifest.sha256.json").exists()
    assert not (runs["shuffled"] / "evaluation_weights").exists()
    # the trace of a step shows what was measured beside it, and the server that did it after the other one
    trace = orjson.loads(write_trace(runs["shuffled"], 3, tmp_path / "trace.json")[0].read_bytes())["traceEvents"]
    names = {event["args"].get("name") for event in trace if event["ph"] == "M"}
    assert "evaluation" in names and {name.split(" (")[0] for name in names if name} >= {"server 0", "server 1"}


def test_a_rank_that_is_stopped_for_ever_ends_the_run_with_a_report_of_who_hangs_where(runs: dict[str, Path]) -> None:
    said = runs["hung"].with_suffix(".log").read_text().splitlines()
    head, own, stopped = (line for line in said if line.startswith(("egrc: rank", "egrc: the run hangs")))
    assert head.endswith("s (policy.distributed_timeout_s = 45)")
    assert re.match(r"egrc: rank 0: update, step 2, for \d+ s, in all_reduce, called at egrc_mega/policy/", own), own
    assert re.match(r"egrc: rank 1: update, step 2, .* \(fault_point\); does not answer: .* is stopped$", stopped), (
        stopped
    )
    assert said[-1].startswith("egrc: error: the run hangs: rank 0 has not moved for") and "is stopped" in said[-1]
    (file,) = (runs["hung"] / "hangs").iterdir()
    of_rank_0, of_rank_1 = file.read_text().split("\n== ")[1:]
    assert "in run_updates" in of_rank_0 and "in update\n" in of_rank_1 and "in fault_point" in of_rank_1


def test_a_run_that_hangs_still_answers_prometheus_with_its_newest_step(runs: dict[str, Path]) -> None:
    samples = orjson.loads(runs["hung"].with_suffix(".json").read_bytes())
    (step,) = events(runs["hung"], "step")  # who is run on for its stacks completes no other
    assert samples["egrc_step"] == 1 and samples["egrc_total_steps"] == 6
    assert samples["egrc_length"] == step["length"] and samples["egrc_time_step_s"] == step["time_step_s"]


@pytest.mark.parametrize(
    ("kind", "begin", "end"),
    [
        ("step", "## Fields of a step", "## Fields of an evaluation"),
        ("evaluation", "## Fields of an evaluation", "##!"),
    ],
)
def test_every_field_that_a_run_writes_is_explained_and_no_other(
    runs: dict[str, Path], root: Path, kind: str, begin: str, end: str
) -> None:
    documented = first_column((root / "docs/metrics.md").read_text(encoding="utf-8"), begin, end)
    told = events(runs["undisturbed"], kind) + events(runs["evaluated"], kind)
    written = {name for event in told for name in event} - {"kind", "time"}
    assert unexplained(written, documented) == set()
    ahead = {"time_rollout_ahead_s"}  # of runs that sample ahead
    assert {name for name in documented if "*" not in name} - written <= ahead


def test_top_shows_ranks_and_servers_of_a_run_that_hangs(runs: dict[str, Path]) -> None:
    text = runs["hung"].with_suffix(".top").read_text()
    assert text.startswith(f"{runs['hung']}: running\nstep 1/6, stage compress, its step 1, ETA ")
    assert len(re.findall(r"^ +[01]  process \d+ on \S+: \w+, (step [12]|after step 1)", text, re.M)) == 2, text
    assert re.search(r"^SERVERS  \d+ requests in flight, queue \d+$", text, re.M)
    server = r"^ +0  (serving|loading) +\d+ in flight +\d+ waiting +(-|[\d,]+) tok/s  http://127"
    assert re.search(server, text, re.M), text
    assert not (runs["undisturbed"] / "live.json").exists()


def test_a_step_is_exported_while_the_run_goes_on_with_the_weights_that_servers_were_given(
    runs: dict[str, Path],
) -> None:
    exported, served = runs["hung"].with_suffix(".export"), runs["hung"] / "weights" / "v1"
    assert (exported / "model.safetensors").read_bytes() == (served / "model.safetensors").read_bytes()


def test_training_changes_the_weights(runs: dict[str, Path], base_model: Path) -> None:
    before = load_file(base_model / "model.safetensors")
    after = load_file(runs["undisturbed"] / "export" / "model.safetensors")
    assert all(float((before[name] - after[name]).abs().max()) > 0 for name in before)


def test_server_and_trainer_agree_on_every_log_prob(runs: dict[str, Path]) -> None:
    steps = events(runs["undisturbed"], "step")
    assert {step["temperature"] for step in steps} == {1.0, 0.7}
    for step in steps:
        assert 0 < step["logprob_diff_max"] <= 1e-4
        assert step["logprob_diff_mean"] <= step["logprob_diff_max"]


def test_two_tensor_parallel_ranks_roll_out_the_same_first_batch(runs: dict[str, Path]) -> None:
    alone, split = (events(runs[name], "step")[0] for name in ("undisturbed", "tp2"))
    for field in ("reward", "accuracy", "length", "kept", "truncated"):
        assert split[field] == alone[field], field
    for field in ("loss", "grad_norm", "entropy", "entropy_rollout"):
        assert split[field] == pytest.approx(alone[field], rel=1e-5), field


def test_a_trace_shows_a_step_of_both_ranks_and_their_server_by_one_clock(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    path, told = write_trace(runs["tp2"], 5, tmp_path / "trace.json")
    assert told.endswith(" spans of 2 ranks and 1 server")
    shown = orjson.loads(path.read_bytes())["traceEvents"]
    bars = [event for event in shown if event["ph"] == "X"]
    for thread in {event["tid"] for event in bars}:
        open_until: list[float] = []
        for start, end in sorted((b["ts"], b["ts"] + b["dur"]) for b in bars if b["tid"] == thread):
            while open_until and open_until[-1] <= start + 0.001:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 0.001
            open_until.append(end)
    (train_0,), (train_1,) = ([b for b in bars if b["name"] == "train" and b["pid"] == pid] for pid in (1, 2))
    (rollout,) = (bar for bar in bars if bar["name"] == "rollout")
    # collectives within it: neither rank trains before the other, nor while rank 0 rolls out
    assert train_0["ts"] < train_1["ts"] + train_1["dur"] and train_1["ts"] < train_0["ts"] + train_0["dur"]
    waits = [bar for bar in bars if bar["name"] == "wait" and bar["ts"] < rollout["ts"] + rollout["dur"]]
    assert {bar["pid"] for bar in waits} == {2} and train_1["ts"] > rollout["ts"] + rollout["dur"]
    requests = [bar["args"] for bar in bars if "tokens" in bar["args"]]
    step = next(event for event in events(runs["tp2"], "step") if event["step"] == 5)
    assert sum(request["tokens"] for request in requests) == step["tokens"] and len(requests) == 16
    assert {bar["name"] for bar in bars} >= {"rollout", "grade", "train", "sync", "wait", "serving", "loading"}


def test_every_stage_is_measured_at_every_temperature(runs: dict[str, Path]) -> None:
    points = orjson.loads((runs["undisturbed"] / "evaluation.json").read_bytes())["points"]
    rows = [(point["label"], point["ordinal"], point["step"], point["temperature"]) for point in points]
    places = [("base", 0, 0), ("compress", 1, 3), ("explore", 2, 6)]
    assert rows == [(*place, t) for place in places for t in (0.6, 1.0)]
    for point in points:
        assert point["n"] == 8
        assert point["accuracy_ci"][0] <= point["accuracy"] <= point["accuracy_ci"][1]
        assert 0 < point["mean_length"] <= 60


def test_an_interrupted_run_measures_each_point_once(runs: dict[str, Path]) -> None:
    found = events(runs["killed"], "evaluation")
    measured = [(event["label"], event["temperature"]) for event in found if event["kept_from"] is None]
    assert measured == [(label, t) for label in ("base", "compress", "explore") for t in (0.6, 1.0)]
    # resumed where the second stage opens, it came to that point again
    assert [event["label"] for event in found if event["kept_from"] == "compress"] == ["compress"] * 2


def test_an_extended_run_is_measured_again_with_its_new_weights(
    runs: dict[str, Path], root: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs["killed"], tmp_path / "run")
    output = finish_run(start_run(root, tmp_path / "run", "--resume", overrides=("stages.explore.steps=4",)))
    points = orjson.loads((tmp_path / "run" / "evaluation.json").read_bytes())["points"]
    ends = [point for point in points if point["label"] == "explore" and point["temperature"] == 1.0]
    assert [point["step"] for point in ends] == [6, 7]
    assert ends[0]["weights"] != ends[1]["weights"] == fingerprint_of_folder(tmp_path / "run" / "export")
    assert "kept" not in "".join(line for line in output.splitlines() if line.startswith("evaluation of "))
    # a run that has ended is resumed: it starts nothing, writes nothing, and says what came of it
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = finish_run(start_run(root, tmp_path / "run", "--resume", overrides=("stages.explore.steps=4",)))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    assert "is finished: all of it was done at step 7; nothing is started" in again and "starting servers" not in again
    assert again.splitlines()[1:-1] == [line for line in output.splitlines() if line][-len(again.splitlines()) + 2 :]


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", [".metadata", "common.pt"])
def test_a_step_whose_pickle_would_run_code_is_refused_by_a_resume(
    name: str, runs: dict[str, Path], root: Path, tmp_path: Path
) -> None:
    run, mark = shutil.copytree(runs["killed"], tmp_path / "run"), tmp_path / "was-here"
    step = max((run / "checkpoints").glob("step_*"))
    if name == ".metadata":
        metadata = pickle.loads((step / name).read_bytes())
        metadata.planner_data = Evil(mark)
        (step / name).write_bytes(pickle.dumps(metadata))
    else:
        torch.save({"a": Evil(mark)}, step / name)
    (step / MANIFEST).unlink()
    write_manifest(step, {}, durable=False)
    output = finish_run(start_run(root, run, "--resume", overrides=("stages.explore.steps=4",)), expected=8)
    assert not mark.exists()
    told = [line for line in output.splitlines() if "not to be loaded" in line]
    assert len(told) == 1 and told[0].startswith(f"egrc: error: {step / name}: "), output
    assert "Traceback" not in output


def test_the_export_loads_with_transformers_and_generates(runs: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export = runs["undisturbed"] / "export"
    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForCausalLM.from_pretrained(export)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "9 a + 1 = ?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**ids, max_new_tokens=200, do_sample=False)
    text = tokenizer.decode(output[0])
    assert text.startswith("<bos> 9 a + 1 = ? <think>")
    assert "</think>" in text


def test_a_run_leaves_what_the_readme_promises(runs: dict[str, Path]) -> None:
    for name in ("report.html", "metrics.jsonl", "config.yaml", "environment.json", "evaluation.json", "export"):
        assert (runs["undisturbed"] / name).exists(), name
    origins = orjson.loads((runs["undisturbed"] / "config_origins.json").read_bytes())
    assert origins["run.dir"] == "--set"
    weights = list((runs["undisturbed"] / "weights").iterdir())
    assert [path.name for path in weights] == ["v6"]
    steps = sorted(path.name for path in (runs["undisturbed"] / "checkpoints").glob("step_*"))
    # the ends of both stages, and the newest two of the others
    assert steps == [f"step_00000{n}" for n in (2, 3, 4, 6)]


def test_a_run_is_published_when_its_export_computes_what_was_trained(runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs["undisturbed"], tmp_path / "run")
    card = (publish(run) / "README.md").read_text()
    assert "Measured against the checkpoint step\\_000006 of the training: logits in float32 differ by at most" in card
    assert "Responses have" in card and (run / "publish" / "model.safetensors").exists()
    shutil.copy(run / "weights" / "v6" / "model.safetensors", run / "export")
    weights = load_file(run / "export" / "model.safetensors")
    first = next(iter(weights))
    save_file(weights | {first: weights[first] + 0.1}, run / "export" / "model.safetensors", {"format": "pt"})
    with pytest.raises(EgrcError, match="export"):
        publish(run)


def test_a_second_run_in_the_same_folder_is_refused_and_harmless(runs: dict[str, Path], root: Path) -> None:
    before = (runs["undisturbed"] / "metrics.jsonl").read_bytes()
    output = finish_run(start_run(root, runs["undisturbed"]), expected=7)
    assert output.splitlines()[-1].startswith("egrc: error: run.dir: ")
    assert "--resume" in output
    assert "--fresh" in output
    assert (runs["undisturbed"] / "metrics.jsonl").read_bytes() == before


def test_an_error_on_one_of_two_ranks_ends_both_and_is_the_last_line(root: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_run(root, tmp_path / "run", "--nproc-per-node", "2", overrides=(f"rollout.port={port}",))
        output = finish_run(process, expected=5)
    last = output.splitlines()[-1]
    assert last.startswith("egrc: error: the rollout server ended")
    assert f"127.0.0.1:{port} cannot be used" in last
    assert "Connection closed by peer" not in output


def test_an_error_while_weights_are_gathered_from_two_ranks_ends_both_with_its_cause(
    root: Path, tmp_path: Path
) -> None:
    with FakeServer() as fake:
        fake.info = {"weight_version": "v0", "tp_size": "many"}
        overrides = (
            "rollout.server=external",
            f"rollout.urls=[{fake.url}]",
            "rollout.max_restarts=0",
            "sync.verify_every=1",
            "megatron.tensor_model_parallel_size=2",
        )
        started = time.monotonic()
        process = start_run(root, tmp_path / "run", "--nproc-per-node", "2", overrides=overrides)
        output = finish_run(process, expected=5)
    last = output.splitlines()[-1]
    assert last.startswith("egrc: error: ") and last.endswith(
        "rollout.max_restarts = 0 within rollout.restart_window_s = 3600 s is used up"
    )
    assert time.monotonic() - started < 120  # and not policy.distributed_timeout_s, half an hour
