"""The report: one page made of a folder's files, true to them, whatever the folder lacks."""

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egrc_mega.errors import RunError
from egrc_mega.observe.events import EventLog
from egrc_mega.observe.rollouts import step_path
from egrc_mega.report.browser import HEAD, MAX_STEPS, TAIL, rollouts_of, spread
from egrc_mega.report.build import build_report, missing_parts
from egrc_mega.report.curves import MAX_POINTS, curves_of
from egrc_mega.report.journal import MAX_INCIDENTS, Journal
from egrc_mega.report.settings import WITHHELD, without_secrets
from egrc_mega.report.tokens import Pieces, renderer_of
from egrc_mega.testing.made_runs import make_groups, write_config, write_evaluation, write_rollouts, write_steps
from egrc_mega.testing.records import make_record
from egrc_mega.testing.rollouts import make_stored_group, make_stored_sample

CONFIG = {"run": {"seed": 3}, "stages": [{"name": "a", "steps": 3}], "rollout": {"temperature": 0.9, "urls": []}}
TEXT = " So a 0 - 2 = 8 ; </think> \\boxed{ 8 }<eos>"
ORIGINS = {"run.seed": "--set", "stages.0.name": "mine.yaml", "rollout.temperature": "mine.yaml"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_steps(tmp_path, range(1, 7), 6)
    write_config(tmp_path, CONFIG, ORIGINS)
    write_evaluation(tmp_path, ("base", 0, 0), 0.9, 110.0, num=4)
    write_evaluation(tmp_path, ("compress", 1, 3), 0.95, 40.0, num=4)
    write_evaluation(tmp_path, ("explore", 2, 6), 0.98, 33.0, num=4)
    return tmp_path


def data_of(page: str) -> dict[str, Any]:
    """What the page's scripts draw."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def shown(run_dir: Path) -> dict[str, Any]:
    [only] = data_of(build_report(run_dir).read_text())["runs"]
    return only


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_three_sentences_say_what_came_of_it_how_it_trained_and_what_went_wrong(run: Path) -> None:
    first, second, third = shown(run)["summary"]
    assert first == (
        "From base to explore, step 6 responses shrank to 30.0\u00a0% of their length (110.0 to 33.0 tokens) while "
        "accuracy rose from 90.0\u00a0% to 98.0\u00a0%, within overlapping 95 % intervals (0 of 256 and 0 of 256 "
        "ungraded) at temperature 0.6."
    )
    assert second.startswith("Training took 6 steps (compress 3, explore 3); ")
    # the mean of the first three and of the last three steps
    assert "the mean length of its responses fell from 50.0 to 35.0 tokens" in second
    assert "their accuracy rose from 63.3\u00a0% to 83.3\u00a0%" in second
    assert third == "On the way there was 1 server restart and 2 lost requests."


def test_the_sentences_are_honest_where_something_got_worse_or_is_not_over(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4), 6, ends=False)
    assert shown(tmp_path)["summary"][0].startswith("Nothing has been measured yet")
    write_evaluation(tmp_path, ("base", 0, 0), 0.9, 110.0)
    assert shown(tmp_path)["summary"][0].startswith("There is no before and after yet")
    write_evaluation(tmp_path, ("compress", 1, 3), 0.6, 121.0)
    first, second, _ = shown(tmp_path)["summary"]
    assert "responses grew to 110.0\u00a0% of their length" in first
    assert "accuracy fell from 90.0\u00a0% to 60.0\u00a0%" in first
    assert second.startswith("The run is unfinished, still going or stopped early: 3 of at most 6 steps are done")


def test_a_run_without_trouble_says_so_and_one_that_was_resumed_too(tmp_path: Path) -> None:
    calm = {"lost_requests": 0, "server_restarts": 0}
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("run", seed=1)
        log.write("step", **make_record(1, **calm))
    assert shown(tmp_path)["summary"][2] == "Nothing was lost, restarted or resumed on the way."
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("resume", seed=1)
        log.write("step", **make_record(2, updated=False, **calm))
        log.write("warning", step=2, text="the gate is near its bound")
    assert shown(tmp_path)["summary"][2] == "On the way there was 1 resume, 1 step without an update and 1 warning."


def test_the_page_needs_no_network_and_its_policy_lets_nothing_else_run(run: Path) -> None:
    page = build_report(run).read_text()
    found = Tags()
    found.feed(page)
    policy = next(attrs["content"] for _tag, attrs in found.tags if attrs.get("http-equiv"))
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; script-src 'sha256-[\w+/=]+'; style-src 'sha256-[\w+/=]+'; "
        r"base-uri 'none'; form-action 'none'",
        policy,
    )
    for tag, attrs in found.tags:
        assert not any(name.startswith("on") for name in attrs) and "style" not in attrs, tag
        for name in ("src", "href"):
            assert re.match("#|data:,$", attrs.get(name) or "#"), (tag, attrs)


def test_building_twice_gives_the_same_bytes(run: Path) -> None:
    write_rollouts(run, [1, 2], make_groups(3, 4, "text"))
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first


def test_a_run_that_has_only_begun_gets_a_page_too(tmp_path: Path) -> None:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("run", seed=1)
    found = shown(tmp_path)
    assert found["summary"][1] == "The run is unfinished: no step has finished yet."
    assert found["state"] == "still running, or stopped early" and found["curves"]["steps"] == []


def test_a_folder_with_neither_steps_nor_measurements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no metrics\.jsonl and no evaluation\.json"):
        build_report(tmp_path)


def test_rows_say_which_weights_they_are_of_and_an_extended_run_ends_with_the_newer_ones(run: Path) -> None:
    # in whatever order they were measured
    write_evaluation(run, ("compress", 3, 12), 0.97, 11.0)
    write_evaluation(run, ("explore", 2, 9), 0.99, 22.0)
    found = shown(run)
    rows = [("base", 0, 0), ("compress", 1, 3), ("explore", 2, 6), ("explore", 2, 9), ("compress", 3, 12)]
    for table in found["evaluation"]:
        assert [row["name"] for row in table["rows"]] == [f"{la}, step {s}" if s else la for la, _, s in rows]
        assert [row["weights"] for row in table["rows"]] == [f"{la}-{o}-{s}"[:12] for la, o, s in rows]
    # the headline is about the last one: 11 of 110 tokens
    assert "10.0\u00a0%" in found["summary"][0]


def test_evaluations_have_intervals_ungraded_counts_and_budgets_from_the_kept_samples(run: Path) -> None:
    cold, hot = shown(run)["evaluation"]
    assert (cold["temperature"], hot["temperature"]) == (0.6, 1.0)
    base, _, final = cold["rows"]
    assert final["accuracy"] == [0.98, 0.8, 0.95] and final["length"] == [33, 30, 36]
    assert final["share"] == 0.3 and base["is_base"] and base["ungraded"] == 0
    # the cap of 20 is below the paper's budgets, so parts of it stand in their place; the responses are longer
    assert cold["budgets"]["budgets"] == [2, 5, 10, 15, 20]
    assert [row["num"] for row in cold["budgets"]["rows"]] == [4, 4, 4]
    assert all(cell[0] == 0 for row in cold["budgets"]["rows"] for cell in row["cells"])


def test_bands_decisions_and_all_numbers_of_the_steps_are_on_the_curves(run: Path) -> None:
    curves = shown(run)["curves"]
    assert curves["bands"] == [
        {"label": "compress", "first": 1, "last": 3},
        {"label": "explore", "first": 4, "last": 6},
    ]
    [decision] = curves["decisions"]
    assert decision == {"step": 3, "ended": "compress", "opens": "explore", "reason": "all 3 steps are done"}
    assert curves["columns"]["length"] == [55, 50, 45, 40, 35, 30] and "lr" in curves["columns"]
    titles = [chart["title"] for chart in curves["charts"]]
    assert {"Length", "Accuracy", "Entropy", "Server against trainer", "Throughput"} <= set(titles)


def test_a_stage_that_follows_one_of_its_own_name_has_a_band_of_its_own(tmp_path: Path) -> None:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        for step in range(1, 7):
            log.write("step", **make_record(step, stage="compress", step_in_stage=(step - 1) % 3 + 1))
    bands = shown(tmp_path)["curves"]["bands"]
    assert [(band["first"], band["last"]) for band in bands] == [(1, 3), (4, 6)]


def test_steps_that_were_taken_again_count_once_and_a_new_number_begins_with_gaps(tmp_path: Path) -> None:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        for step in (1, 2, 3, 2, 3, 4):
            log.write("step", **make_record(step, length=float(10 * step), **({"late": 1.5} if step == 4 else {})))
    curves = shown(tmp_path)["curves"]
    assert curves["steps"] == [1, 2, 3, 4]
    assert curves["columns"]["length"] == [10, 20, 30, 40]
    assert curves["columns"]["late"] == [None, None, None, 1.5]


def test_a_long_run_is_thinned_to_means_and_says_of_how_many(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    num = 2 * MAX_POINTS + 10
    journal.steps, journal.stages = list(range(1, num + 1)), ["a"] * num
    journal.columns = {"length": [float(i) for i in range(num)], "kl": [None] * num}
    curves = curves_of(journal)
    assert curves["stride"] == 3 and len(curves["steps"]) == 337
    assert curves["columns"]["length"][:2] == [1, 4] and curves["columns"]["kl"][0] is None
    # a reader of the first 300 rows gets the rest
    assert curves_of(journal, begin=300)["columns"]["length"] == curves["columns"]["length"][300:]


def test_the_journal_reads_on_where_it_was_and_anew_when_another_run_stands_there(tmp_path: Path) -> None:
    write_steps(tmp_path, [1, 2], 6, ends=False)
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.advance()
    write_steps(tmp_path, [3, 4], 6, ends=False)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind":"step","step":5')  # a line that is not whole yet
    journal.advance()
    assert journal.steps == [1, 2, 3, 4] and journal.changes == 0
    (tmp_path / "metrics.jsonl").unlink()
    write_steps(tmp_path, [1], 6, ends=False)
    journal.advance()
    assert journal.steps == [1] and journal.changes == 1


def test_every_event_that_is_no_routine_is_an_incident_and_only_so_many_are_listed(tmp_path: Path) -> None:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("run", seed=1)
        log.write("step", **make_record(1, server_events=["server 0 was lost: killed"]))
        log.write("fallback_to_earlier_commit", step=1, commit="step_000000")
        for i in range(MAX_INCIDENTS + 5):
            log.write("warning", step=1, text=f"warning {i}")
    found = shown(tmp_path)["incidents"]
    assert found["num"] == {"server": 1, "fallback_to_earlier_commit": 1, "warning": MAX_INCIDENTS + 5}
    assert len(found["rows"]) == MAX_INCIDENTS and found["rows"][0]["text"] == f"warning {MAX_INCIDENTS + 4}"
    journal = Journal(tmp_path / "metrics.jsonl")
    journal._note("server", {"step": 1}, "server 0 was lost: killed")
    assert journal.incidents == [{"kind": "server", "time": None, "step": 1, "text": "server 0 was lost: killed"}]


def test_time_and_memory_are_split_by_phase_and_by_span(run: Path) -> None:
    times = shown(run)["times"]
    assert [phase["name"] for phase in times["phases"]] == ["rollout", "train", "sync", "grade"]
    assert times["phases"][0]["seconds"] == 3 and times["in_steps_s"] == 4.68
    assert len(times["bars"]) == 6 and times["bars"][0]["seconds"] == [0.5, 0.25, 0.02, 0.01]
    spans = {span["name"]: span for span in times["spans"]}
    assert spans["train"] == {
        "name": "train", "beside": False, "count": 6, "own_s": 2.4, "longest_s": 0.5, "errors": 0,
    }  # fmt: skip
    assert {"name": "train", "peak_gib": 0.6} in times["memory"]


def test_values_of_the_configuration_say_where_they_come_from(run: Path) -> None:
    found = shown(run)["settings"]
    rows = {name: (value, origin) for name, value, origin in found["rows"]}
    assert found["has_origins"]
    assert rows["run.seed"] == ("3", "--set") and rows["rollout.temperature"] == ("0.9", "mine.yaml")
    assert rows["rollout.urls"] == ("[]", "default") and rows["stages.0.steps"] == ("3", "default")
    (run / "config_origins.json").unlink()
    found = shown(run)["settings"]
    assert not found["has_origins"] and all(origin is None for _, _, origin in found["rows"])


def test_secrets_of_configuration_and_command_line_are_withheld(tmp_path: Path) -> None:
    write_steps(tmp_path, [1], 2)
    write_config(tmp_path, {"run": {"api_key": "sk-1", "max_tokens": 5}, "hub_token": "hf_2", "tokens": 7})
    found = shown(tmp_path)
    rows = {name: value for name, value, _ in found["settings"]["rows"]}
    assert rows == {"run.api_key": WITHHELD, "run.max_tokens": "5", "hub_token": WITHHELD, "tokens": WITHHELD}
    assert ["arguments", f"train --token {WITHHELD}"] in found["environment"]
    assert ["packages.torch", "2.13.0"] in found["environment"]
    assert without_secrets(["--set", "a.password=x", "--resume"]) == ["--set", f"a.password={WITHHELD}", "--resume"]


def test_stages_of_a_configuration_are_called_by_label_then_method(run: Path) -> None:
    stages = [{"label": "first", "method": "dapo", "steps": 3}, {"label": None, "method": "dapo", "steps": 4}]
    write_config(run, {"stages": stages})
    assert "stages first (3 steps), dapo (4 steps)" in shown(run)["about"]


def test_a_folder_of_evaluations_alone_gets_a_page_that_says_what_it_lacks(tmp_path: Path) -> None:
    write_evaluation(tmp_path, ("models/a", 0, None), 0.9, 110.0)
    write_evaluation(tmp_path, ("models/b", 0, None), 0.8, 90.0)
    found = shown(tmp_path)
    assert missing_parts(tmp_path) == found["missing"]
    assert found["missing"] == ["metrics.jsonl (no curves)", "config.yaml (no configuration)"]
    assert [row["name"] for row in found["evaluation"][0]["rows"]] == ["models/a", "models/b"]
    # two models are no before and after
    assert found["summary"] == ["This folder holds evaluations (2), and no training."]
    assert found["state"] == "no run"


def test_what_is_shown_of_the_rollouts_is_sampled_within_its_bytes_and_counted(tmp_path: Path) -> None:
    steps = range(1, 2 * MAX_STEPS + 1)
    write_rollouts(tmp_path, steps, make_groups(4, 4, "x" * 500))
    found = rollouts_of(tmp_path, None, budget=100_000)
    assert len(json.dumps(found.groups)) < 120_000
    facts = found.facts
    assert facts["num_stored_steps"] == len(steps) and facts["num_steps"] == MAX_STEPS
    assert facts["num_in_steps"] == MAX_STEPS * 16
    assert facts["num_rollouts"] == sum(len(group["samples"]) for group in found.groups) < facts["num_in_steps"]
    numbers = [group["step"] for group in found.groups]
    assert numbers == sorted(numbers) and {1, steps[-1]} <= set(numbers)
    assert spread(range(100), 5) == [0, 25, 50, 74, 99]


def test_prompts_that_come_again_are_shown_first(tmp_path: Path) -> None:
    again, once = make_groups(2, 2, "y" * 300)
    for step in (1, 9):
        write_rollouts(tmp_path, [step], [once, again] if step == 1 else [again])
    found = rollouts_of(tmp_path, None, budget=3000)
    assert [(group["step"], group["key"]) for group in found.groups] == [(1, again.key), (9, again.key)]


def test_long_texts_lose_their_middle_and_say_so_and_a_torn_file_is_named(tmp_path: Path) -> None:
    long = make_stored_sample(3, text="a" * HEAD + "b" * 5000 + "c" * TAIL)
    write_rollouts(tmp_path, [1, 2], [make_stored_group(long, make_stored_sample(2, text="half \ud800 pair"))])
    step_path(tmp_path / "rollouts", 2).write_bytes(b"torn")
    found = rollouts_of(tmp_path, None)
    first, second = found.groups[0]["samples"]
    assert "[… 5,000 characters are left out here …]" in first["text"] and first["text"].count("b") == 0
    assert second["text"] == "half \ufffd pair"
    assert found.facts["torn"] == ["step 2"]


@pytest.fixture
def pieces(base_model: Path, tmp_path: Path) -> Pieces:
    write_config(tmp_path, {"model": {"path": str(base_model)}})
    renderer = renderer_of(tmp_path)
    assert renderer is not None
    return Pieces(renderer)


def coloured(run_dir: Path, pieces: Pieces, **changes: Any) -> dict[str, Any]:
    text = TEXT
    ids = pieces.renderer.encode(text)
    assert pieces.renderer.decode(ids) == text
    own = {"text": text, "output_ids": ids, "sampled": np.arange(len(ids)) != 1, "logprobs": np.full(len(ids), -0.5)}
    write_rollouts(run_dir, [1], [make_stored_group(make_stored_sample(len(ids), **own | changes))])
    [sample] = rollouts_of(run_dir, pieces).groups[0]["samples"]
    assert sum(sample["heat"]["sizes"]) == len(text) and len(sample["heat"]["sizes"]) == len(ids)
    return sample["heat"]


def test_tokens_are_coloured_by_entropy_where_it_was_recorded_and_else_by_surprise(
    tmp_path: Path, pieces: Pieces
) -> None:
    heat = coloured(tmp_path, pieces)
    assert heat["kind"] == "surprise" and heat["values"][:3] == [50, -1, 50]
    num = len(heat["values"])
    heat = coloured(tmp_path, pieces, entropies=np.linspace(0, 2, num, dtype=np.float16))
    assert heat["kind"] == "entropy" and heat["values"][0] == 0 and heat["values"][-1] == 200


def test_the_diagnosis_pairs_the_evaluations_before_and_after_and_reads_recorded_entropies(
    run: Path, pieces: Pieces, base_model: Path
) -> None:
    write_config(run, {"model": {"path": str(base_model)}})
    num = len(pieces.renderer.encode(TEXT))
    coloured(run, pieces, entropies=np.full(num, 0.5))
    found = shown(run)["diagnosis"]
    assert [side["name"] for side in found["sides"]] == ["base", "explore, step 6"]
    figures = {row["label"]: row["values"] for row in found["figures"]}
    assert figures["output tokens, mean"] == [111.5, 34.5]
    [entropy] = found["entropy"]
    assert entropy["step"] == 1 and entropy["mean"] == 0.5
    assert entropy["classes"]["step"] == [0.5, 1]


def test_without_evaluations_the_diagnosis_pairs_the_first_and_the_last_rollouts(tmp_path: Path) -> None:
    write_steps(tmp_path, [1, 2], 2)
    write_rollouts(tmp_path, [1, 2], make_groups(1, 2, "Wait, so. Wait, no."))
    found = shown(tmp_path)["diagnosis"]
    assert [side["name"] for side in found["sides"]] == ["rollouts of step 1", "rollouts of step 2"]
    assert {"name": "Wait", "kind": "recheck", "values": [2, 2]} in found["connectors"]
    assert found["entropy"] == []


def test_a_name_that_no_encoding_knows_does_not_stop_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "run\udcff"
    folder.mkdir()
    write_steps(folder, [1], 2)
    assert shown(folder)["name"] == "run\ufffd"
