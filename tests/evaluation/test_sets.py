"""Several benchmarks in one evaluation, each with what it states itself, and what an interrupted one goes on with."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.errors import ConfigError, DataError
from egrc_mega.evaluation.evaluator import Evaluator
from egrc_mega.evaluation.pending import FOLDER
from egrc_mega.evaluation.sample_log import read_samples
from egrc_mega.evaluation.sets import evaluation_sets
from egrc_mega.evaluation.store import read_table
from egrc_mega.launch.compare_evaluations import compare_evaluations
from egrc_mega.seeds import derive_seed
from egrc_mega.testing.points import make_subject
from egrc_mega.testing.samples import make_sample
from egrc_mega.training.preflight import preflight
from egrc_mega.types import Completion, Drawn, Grade, RolloutRequest, Sample


class Servers:
    """Answers with as many tokens as a request's seed says, dies after so many answers, and judges by the length."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.asked: list[RolloutRequest] = []
        self.dies_after = dies_after

    def generate(self, requests: Sequence[RolloutRequest], tell: Any) -> list[Completion]:
        found = []
        for request in requests:
            if len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            found.append(replace(make_sample(range(2 + request.seed % 5)).completion, rid=request.rid))
            tell(found[-1:])
        return found

    def judge(self, drawn: Sequence[Drawn], _needs: frozenset[str]) -> list[Sample]:
        return [
            replace(
                make_sample(one.completion.output_ids.tolist()),
                problem=one.problem,
                grade=Grade.RIGHT if len(one.completion.output_ids) < 4 else Grade.WRONG,
            )
            for one in drawn
        ]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Three benchmarks, of other keys each."""
    rows = {
        "main": [{"problem": f"{i} + 1 = ?", "answer": str(i + 1)} for i in range(4)],
        "aime24": [{"Problem": f"{i} + 2 = ?", "Answer": str(i + 2)} for i in range(5)],
        "own": [{"problem": f"{i} + 3 = ?", "answer": str(i + 3)} for i in range(300)],
    }
    found = {name: tmp_path / f"{name}.jsonl" for name in rows}
    for name, path in found.items():
        path.write_text("\n".join(map(json.dumps, rows[name])))
    return found


@pytest.fixture
def config(root: Path, files: dict[str, Path]) -> Config:
    sets: Any = {
        "aime24": {"data": str(files["aime24"]), "prompt_key": "Problem", "answer_key": "Answer", "n": 4},
        "own": {"data": str(files["own"]), "num_problems": 3, "temperatures": [0.3], "top_p": 0.5, "seed": 7},
    }
    overrides = [f"evaluation.data={files['main']}", f"evaluation.sets={orjson.dumps(sets).decode()}"]
    overrides += ["evaluation.temperatures=[0.6]", "evaluation.max_new_tokens=50", "evaluation.profile=math"]
    return load_config(root / "configs/quickstart.yaml", overrides).config


def evaluator(config: Config, folder: Path, servers: Servers) -> Evaluator:
    renderer = Renderer(load_tokenizer(config.model.path), "")
    folder.mkdir(exist_ok=True)
    return Evaluator(config, renderer, (2,), folder, servers.generate, servers.judge)


def test_a_set_has_what_it_states_and_the_rest_of_the_first_one_but_for_its_size_and_profile(config: Config) -> None:
    main, aime, own = evaluation_sets(config)
    assert [each.name for each in (main, aime, own)] == ["", "aime24", "own"]
    assert (main.n, main.num_problems, main.temperatures, main.profile) == (1, 256, (0.6,), "math")
    # a known set is graded by its own conventions
    assert (aime.n, aime.num_problems, aime.temperatures, aime.profile) == (4, None, (0.6,), "aime")
    assert (aime.data.prompt_key, aime.data.answer_key) == ("Problem", "Answer")
    assert (own.n, own.num_problems, own.temperatures, own.profile) == (1, 3, (0.3,), "math")
    assert (own.top_p, own.seed, own.max_new_tokens) == (0.5, 7, 50)
    assert (aime.top_p, aime.seed, aime.max_new_tokens) == (1.0, 12345, 50)
    assert own.data.prompt_key == "problem"


def test_every_set_has_a_row_of_its_own_with_its_number_of_samples(config: Config, tmp_path: Path) -> None:
    servers = Servers()
    outcomes = evaluator(config, tmp_path / "run", servers).evaluate(make_subject())
    points = read_table(tmp_path / "run").points
    found = [(point.set, point.temperature, point.n, point.samples_per_problem) for point in points]
    assert found == [("", 0.6, 4, 1), ("aime24", 0.6, 20, 4), ("own", 0.3, 3, 1)]
    assert outcomes[1].line().startswith("evaluation of base on aime24 at T 0.6: accuracy ")
    assert set(points[1].pass_at) == {"2", "4"} and not points[0].pass_at
    # the first sample of a problem is that of an evaluation with one; all differ
    seeds = [request.seed for request in servers.asked[4:24]]
    assert seeds[:5] == [derive_seed(12345, "0.6", i) for i in range(5)]
    assert len(set(seeds)) == 20
    assert len({request.rid for request in servers.asked}) == 27


def test_the_figures_of_a_set_are_means_over_its_problems(config: Config, tmp_path: Path) -> None:
    evaluator(config, tmp_path / "run", Servers()).evaluate(make_subject())
    table = read_table(tmp_path / "run")
    point = table.points[1]
    rows = read_samples(tmp_path / "run", {(point.weights, point.protocol)})[point.weights, point.protocol]
    assert len(rows) == 20 and len({row.problem for row in rows}) == 5
    assert point.accuracy == pytest.approx(sum(bool(row.right) for row in rows) / 20)
    assert point.mean_length == pytest.approx(sum(row.length or 0 for row in rows) / 20)
    low, high = point.accuracy_ci
    assert low < point.accuracy < high


@pytest.mark.parametrize("answers", [0, 3, 11, 26])
def test_an_evaluation_that_was_killed_asks_only_for_what_is_missing_and_ends_with_the_same_numbers(
    answers: int, config: Config, tmp_path: Path
) -> None:
    subject = make_subject("compress", 1, 3)
    evaluator(config, tmp_path / "whole", Servers()).evaluate(subject)
    with pytest.raises(KeyboardInterrupt):
        evaluator(config, tmp_path / "run", Servers(dies_after=answers)).evaluate(subject)
    for file in (tmp_path / "run" / FOLDER).iterdir():  # and a line was being written
        with file.open("ab") as stream:
            stream.write(b'{"rid":"evaluate-')
    servers = Servers()
    evaluator(config, tmp_path / "run", servers).evaluate(subject)
    assert len(servers.asked) == 27 - answers
    tables = [(tmp_path / name / "evaluation.json").read_bytes() for name in ("run", "whole")]
    assert tables[0] == tables[1]
    assert not (tmp_path / "run" / FOLDER).exists()


def test_an_evaluation_that_was_killed_twice_loses_nothing_behind_the_line_that_was_torn_first(
    config: Config, tmp_path: Path
) -> None:
    for answers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            evaluator(config, tmp_path / "run", Servers(dies_after=answers)).evaluate(make_subject())
        [file] = (tmp_path / "run" / FOLDER).iterdir()
        with file.open("ab") as stream:
            stream.write(b'{"rid":"evaluate-')
    servers = Servers()
    evaluator(config, tmp_path / "run", servers).evaluate(make_subject())
    assert len(servers.asked) == 27 - 1 - 2


def test_what_other_weights_have_left_is_not_taken_for_these(config: Config, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluator(config, tmp_path / "run", Servers(dies_after=3)).evaluate(make_subject(weights="a"))
    servers = Servers()
    evaluator(config, tmp_path / "run", servers).evaluate(make_subject(weights="b"))
    assert len(servers.asked) == 27


def test_runs_are_compared_by_what_they_have_measured_between_their_stages(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        places: list[tuple[str, int, int]] = [("base", 0, 0), ("compress", 1, 5)]
        for label, ordinal, step in places:
            weights = "base" if label == "base" else f"{name}-{label}"
            one = evaluator(config, tmp_path / name, Servers())
            one.evaluate(make_subject(label, ordinal, step, weights))
        one.evaluate(replace(make_subject("compress", 1, 3, f"{name}-3"), within=True))
    alone = orjson.loads(compare_evaluations([tmp_path / "first"], None, None, "json", None))
    assert alone["base"] == "base"
    assert {label: set(cells) for label, cells in alone["rows"].items()} == {
        "base": {"main", "aime24", "own"},
        "compress": {"main", "aime24", "own"},
    }
    assert alone["rows"]["compress"]["aime24"]["samples_per_problem"] == [4, 4]
    assert alone["rows"]["compress"]["aime24"]["comparison"] is not None
    both = orjson.loads(compare_evaluations([tmp_path / "first", tmp_path / "second"], None, None, "json", None))
    # the base is the same, and stands there once
    assert list(both["rows"]) == ["first/base", "first/compress", "second/compress"]
    assert capsys.readouterr().err == ""
    shutil.copytree(tmp_path / "first", tmp_path / "again")
    compare_evaluations([tmp_path / "first", tmp_path / "again"], None, None, "json", None)
    told = capsys.readouterr().err
    assert told == f"{tmp_path}/again adds no row: the same weights, with the same responses, are there already\n"


def test_a_run_is_no_base_for_one_of_another_protocol(
    config: Config, tmp_path: Path, root: Path, files: dict[str, Path]
) -> None:
    evaluator(config, tmp_path / "first", Servers()).evaluate(make_subject())
    sets = [f"evaluation.data={files['main']}", "evaluation.temperatures=[0.6]", "evaluation.max_new_tokens=51"]
    other = load_config(root / "configs/quickstart.yaml", sets).config
    evaluator(other, tmp_path / "second", Servers()).evaluate(make_subject("other", 0, 0))
    with pytest.raises(DataError, match="max_new_tokens: 51 and 50"):
        compare_evaluations([tmp_path / "first", tmp_path / "second"], None, ["main"], "text", None)


def test_only_the_newest_point_within_a_stage_keeps_responses_to_be_looked_at(config: Config, tmp_path: Path) -> None:
    one = evaluator(config, tmp_path / "run", Servers())
    for step in (2, 4, 6):
        one.evaluate(replace(make_subject("compress", 1, step), within=True))
    shown = orjson.loads((tmp_path / "run" / "evaluation_responses.json").read_bytes())
    assert {response["weights"] for response in shown} == {"compress-1-6"}
    assert [point.step for point in read_table(tmp_path / "run").points] == [2, 2, 2, 4, 4, 4, 6, 6, 6]


def test_files_of_sets_are_relative_to_their_configuration_and_are_looked_for(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "sets.yaml"
    file.write_text("evaluation: {sets: {own: {data: own.jsonl}}}")
    config = load_config([root / "configs/quickstart.yaml", file], ["run.dir=here"]).config
    assert config.evaluation.sets["own"].data == tmp_path / "own.jsonl"
    with pytest.raises(DataError, match=r"evaluation\.sets\.own\.data: .*own\.jsonl does not exist"):
        preflight(config, 1, 1)
    by_hand = load_config(root / "configs/quickstart.yaml", ["evaluation.sets.own.data=own.jsonl"]).config
    assert by_hand.evaluation.sets["own"].data == Path.cwd() / "own.jsonl"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("evaluation.sets={a b: {data: x}}", "evaluation.sets.a b"),
        ("evaluation.sets={own: {data: x, num_problem: 3}}", "did you mean num_problems?"),
        ("evaluation.sets={own: {n: 3}}", "evaluation.sets.own.data: required, but missing"),
        ("evaluation.every=0", "evaluation.every: 0 is not usable"),
    ],
)
def test_a_mistake_in_a_set_is_a_line_with_its_name(override: str, expected: str, root: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(root / "configs/quickstart.yaml", [override])
    assert expected in str(caught.value)
