"""`egrc eval MODEL --benchmarks`: what is asked, what is kept, and what a killed evaluation need not ask again."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.testing import forked
from egrc_mega.testing.fake_server import FakeServer, right_reply

NUM_PROBLEMS, N = 6, 4
PATIENCE_S = 280.0
"""For one evaluation: a busy machine is slow, not wrong."""


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [{"problem": f"{i} a + 1 = ?", "answer": str(i + 1)} for i in range(NUM_PROBLEMS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def server(base_model: Path) -> Iterator[FakeServer]:
    """Answers by the request's seed: right, wrong, or cut; lengths differ, too."""
    tokenizer = load_tokenizer(base_model)

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        seed, first = body["sampling_params"]["sampling_seed"], tokenizer.decode(body["input_ids"])
        number = next(int(character) for character in first if character.isdigit())
        if seed % 5 == 4:
            return right_reply(body, "v0")
        text = " ".join(["Then"] * (seed % 7) + ["</think>", "\\boxed{", str(number + (seed % 5 < 3)), "}"])
        ids = [*tokenizer.encode(text, add_special_tokens=False), 2]
        shorter = body | {"sampling_params": body["sampling_params"] | {"max_new_tokens": len(ids)}}
        found = right_reply(shorter, "v0")
        found["output_ids"] = ids
        found["meta_info"]["finish_reason"] = {"type": "stop", "matched": 2}
        found["meta_info"]["output_token_logprobs"] = [[-1.0, token, None] for token in ids]
        return found

    with FakeServer() as fake:
        fake.reply = reply  # type: ignore[method-assign]
        yield fake


def command(model: Path, benchmark: Path, server: FakeServer, out: Path, *more: object) -> list[str]:
    own = ["--benchmarks", f"sums={benchmark}", "--server", server.url, "--out", out, "--n", N, "--template", "none"]
    arguments = ["eval", model, *own, "--max-new-tokens", 20, *more]
    return [sys.executable, "-P", "-m", "egrc_mega.cli.main", *map(str, arguments)]


def figures(out: Path) -> dict[str, Any]:
    return {name: each["summary"] for name, each in json.loads((out / "results.json").read_bytes())["sets"].items()}


def test_a_killed_evaluation_asks_only_for_what_is_missing_and_prints_the_same_numbers(
    base_model: Path, benchmark: Path, server: FakeServer, tmp_path: Path
) -> None:
    whole = forked.run(command(base_model, benchmark, server, tmp_path / "whole"), PATIENCE_S)
    assert whole.returncode == 0, whole.stderr
    total = NUM_PROBLEMS * N
    assert server.num_requests == total

    # half of the answers come, the others never do
    server.bodies.clear()
    server.holds = lambda body: body["rid"] not in {one["rid"] for one in server.bodies[: total // 2]}
    killed = forked.popen(command(base_model, benchmark, server, tmp_path / "killed"))
    journal = tmp_path / "killed" / "responses" / "sums.jsonl"
    deadline = time.monotonic() + 240
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= total // 2):
        assert time.monotonic() < deadline, "half of the responses did not come within 240 s"
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    with journal.open("ab") as file:
        file.write(b'{"problem_id": "torn')

    server.holds, num_before = (lambda body: False), server.num_requests
    again = forked.run(command(base_model, benchmark, server, tmp_path / "killed"), PATIENCE_S)
    assert again.returncode == 0, again.stderr
    assert server.num_requests - num_before == total - total // 2
    assert f"asking for {total - total // 2} of {total} responses" in again.stdout
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    tail = whole.stdout[whole.stdout.index("sums: 6 problems, 4 samples") :]
    assert again.stdout.endswith(tail)
    assert 0 < figures(tmp_path / "whole")["sums"]["num_right"] < total

    # nothing is missing: nobody is asked; with a larger n only for the difference
    num_before = server.num_requests
    assert forked.run(command(base_model, benchmark, server, tmp_path / "whole"), PATIENCE_S).returncode == 0
    assert server.num_requests == num_before
    more = forked.run(command(base_model, benchmark, server, tmp_path / "whole", "--n", N + 1), PATIENCE_S)
    assert more.returncode == 0, more.stderr
    assert server.num_requests == num_before + NUM_PROBLEMS


def test_what_is_asked_is_the_papers_sampling_and_other_settings_are_another_evaluation(
    base_model: Path, benchmark: Path, server: FakeServer, tmp_path: Path
) -> None:
    done = forked.run(command(base_model, benchmark, server, tmp_path / "out"), PATIENCE_S)
    assert done.returncode == 0, done.stderr
    settings = [body["sampling_params"] for body in server.bodies]
    assert {(s["temperature"], s["top_p"], s["max_new_tokens"]) for s in settings} == {(0.6, 0.95, 20)}
    assert len({s["sampling_seed"] for s in settings}) == len({body["rid"] for body in server.bodies}) == 24
    found = figures(tmp_path / "out")["sums"]
    lines = [json.loads(line) for line in (tmp_path / "out/responses/sums.jsonl").read_text().splitlines()]
    cut = [line for line in lines if line["finish_reason"] == "length"]
    assert found["num_truncated"] == len(cut) > 0
    # a cut response counts at its full length
    assert {line["length"] for line in cut} == {20}
    assert found["length"]["value"] == pytest.approx(sum(line["length"] for line in lines) / 24)
    other = forked.run(command(base_model, benchmark, server, tmp_path / "out", "--temperature", 1), PATIENCE_S)
    assert other.returncode == 7
    assert "other prompts, sampling settings or weights; give another --out" in other.stderr
    journal, program = tmp_path / "out" / "responses" / "sums.jsonl", command(base_model, benchmark, server, tmp_path)
    own = forked.run([*program[:5], "--responses", str(journal), "--out", str(tmp_path / "x")], PATIENCE_S)
    assert own.returncode == 0, own.stderr
    assert figures(tmp_path / "x")["sums"]["num_right"] == found["num_right"]
