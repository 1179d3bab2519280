"""A recorded batch becomes groups that a method may look at like any others, and a command prints what it pays."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from egrc_mega.cli.main import app
from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError, DataError
from egrc_mega.methods.modes import NO_THINKING, THINKING
from egrc_mega.methods.recorded import numbered_facts, recorded_groups
from egrc_mega.observe.rollout_file import StoredSample
from egrc_mega.observe.rollouts import RolloutLog
from egrc_mega.testing.rollouts import make_stored_group, make_stored_sample
from egrc_mega.training.recorded_batch import payment, read_batch
from egrc_mega.types import Grade, Group


def recorded(length: int, grade: str = "right", **fields: object) -> dict[str, object]:
    """A sample of a recorded batch."""
    return {"length": length, "grade": grade, "truncated": False, "well_formed": True} | fields


BATCH = {
    "step": 137,
    "cap": 8192,
    "groups": [
        {
            "id": "g00",
            "ref_accuracy": 0.75,
            "ref_mean_length": 3900,
            "history_len": None,
            "num_tokens": 1000,
            "samples": [
                recorded(40, mode="think", think_len=30, repetitive=True, valid_prefix=12, step_entropies=[0.5, 0.25]),
                recorded(8, mode="nothink", think_len=0, exit_index=3),
                recorded(50, "wrong", mode="think", think_len=0, truncated=True, well_formed=False),
                recorded(9, "ungraded"),
            ],
        }
    ],
    "edge_groups": [{"history_len": 70, "samples": [recorded(5, "wrong")]}],
}


@pytest.fixture
def group() -> Group:
    return recorded_groups(BATCH)[0]


def test_lengths_verdicts_and_modes_are_those_of_the_batch(group: Group) -> None:
    assert [sample.length for sample in group.samples] == [40, 8, 50, 9]
    assert [sample.grade for sample in group.samples] == [Grade.RIGHT, Grade.RIGHT, Grade.WRONG, Grade.UNGRADED]
    assert [sample.completion.truncated for sample in group.samples] == [False, False, True, False]
    assert [sample.well_formed for sample in group.samples] == [True, True, False, True]
    assert [sample.ask.tag for sample in group.samples] == [THINKING, NO_THINKING, THINKING, ""]
    assert all(sample.ask.max_new_tokens == 8192 for sample in group.samples)


def test_the_end_of_thinking_counts_itself_and_is_nowhere_in_a_response_that_never_ends_to_think(group: Group) -> None:
    assert [sample.think_length for sample in group.samples] == [31, 1, None, None]


def test_facts_of_the_problem_and_of_each_sample_are_found_by_name(group: Group) -> None:
    assert group.problem.facts == {"reference_accuracy": 0.75, "reference_length": 3900.0}
    first, second = group.samples[:2]
    assert {k: v for k, v in first.ask.facts.items() if k[:4] != "step"} == {
        "budget": 1000.0,
        "repetitive": 1.0,
        "valid_prefix": 12.0,
    }
    assert second.ask.facts == {"budget": 1000.0, "exit_index": 3.0}
    assert (numbered_facts(first, "step_entropy"), numbered_facts(second, "step_entropy")) == ([0.5, 0.25], [])
    [edge] = recorded_groups(BATCH, "edge_groups")
    assert edge.problem.facts == {"history_length": 70.0}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"step": 1}, r"no list 'groups' of groups; it has \['step'\]"),
        ({"groups": [{"samples": []}]}, r"groups\[0\]\.samples: there is none"),
        ({"groups": [{"samples": [{"length": 3}]}]}, r"groups\[0\]\.samples\[0\] .*well_formed missing"),
        ({"groups": [{"samples": [recorded(0)]}]}, r"groups\[0\]\.samples\[0\] .*length 0 is below 1"),
        ({"groups": [{"samples": [recorded(3, "fine")]}]}, r"groups\[0\]\.samples\[0\] .*'fine' is not a valid Grade"),
        ({"groups": [{"samples": [recorded(3, mode="loud")]}]}, r"samples\[0\] .*KeyError\('loud'\)"),
    ],
)
def test_a_batch_that_cannot_be_used_is_told_by_place(batch: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        recorded_groups(batch)


def config_of(tmp_path: Path, *stages: str) -> Path:
    path = tmp_path / "stages.yaml"
    path.write_text("".join(["stages:\n", *(f"  - {stage}\n" for stage in stages)]))
    return path


def test_the_command_prints_rewards_and_advantages_of_a_file_that_holds_stages_only(tmp_path: Path) -> None:
    batch = tmp_path / "batch.json"
    batch.write_text(json.dumps(BATCH))
    config = config_of(
        tmp_path, "{method: compress, clip_len: 80, shape: {r: 0.25}}", "{method: explore, clip_len: 48}"
    )
    command = ["credit", "-c", str(config), "--batch", str(batch)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    # f(|y|) = r^(|y| / L): .25^(40/80) = .5
    short = 0.25 ** (8 / 80)
    paid = json.loads(result.stdout)
    assert paid["rewards"] == [[pytest.approx(0.5), pytest.approx(short), 0.0, None]]
    assert paid["advantages"] == [[pytest.approx(0.5), pytest.approx(short), 0.0, 0.0]]
    result = CliRunner().invoke(app, [*command, "--stage", "explore", "--groups", "edge_groups"])
    # a wrong, well-formed answer of 5 tokens: .2 for the format; a group of one teaches nothing
    assert json.loads(result.stdout) == {"rewards": [[0.2]], "advantages": [[0.0]]}


STAGES = ("{method: compress, clip_len: 80}", "{method: explore, clip_len: 8, label: second}")
BELOW = {"run": {"dir": "."}, "model": {"path": "."}, "data": {"train": "."}, "evaluation": {"data": "."}}


def test_a_rollout_file_of_a_run_is_a_batch_of_its_own_stage(tmp_path: Path) -> None:
    samples = [make_stored_sample(4), make_stored_sample(16, grade="wrong"), make_stored_sample(8, grade="ungraded")]
    with RolloutLog(tmp_path / "run" / "rollouts", 2**20) as log:
        log.write(7, "second", [make_stored_group(*samples)])
    batch = read_batch(tmp_path / "run" / "rollouts" / "step_000007.safetensors")
    assert (batch.step, batch.stage) == (6, "second")
    assert batch.groups[0].samples[0].text == samples[0].text
    assert np.array_equal(batch.groups[0].samples[1].completion.output_ids, samples[1].output_ids)
    config = load_config(config_of(tmp_path, *STAGES), below=BELOW).config
    # explore, L = 8: 1.2; .2 - .25 * 8 / 2 = -.8
    assert payment(config, batch)["rewards"] == [[pytest.approx(1.2), pytest.approx(-0.8), None]]
    assert payment(config, batch, "compress")["rewards"][0][1:] == [0.0, None]
    with pytest.raises(ConfigError, match=r"--stage: there is no stage 'third', stages are \['compress', 'second'\]"):
        payment(config, batch, "third")


def run_file(tmp_path: Path, *samples: StoredSample, **known: object) -> Path:
    with RolloutLog(tmp_path / "run" / "rollouts", 2**20) as log:
        log.write(40, "second", [make_stored_group(*samples)], **known)  # type: ignore[arg-type]
    return tmp_path / "run" / "rollouts" / "step_000040.safetensors"


def test_of_a_runs_rollouts_thinking_forced_tokens_plan_and_step_within_the_stage_are_known(tmp_path: Path) -> None:
    plan = {"max_new_tokens": 40, "facts": {"budget": 7.0}}
    forced = make_stored_sample(5, think_length=3, sampled=np.array([False, False, True, False, True]), **plan)
    written = make_stored_sample(2, sampled=np.zeros(2, bool))
    batch = read_batch(run_file(tmp_path, forced, written, step_in_stage=2))
    first, second = batch.groups[0].samples
    assert batch.step == 2
    assert (first.think_length, first.answer_length, first.num_forced) == (3, 2, 2)
    assert (first.ask.max_new_tokens, first.ask.facts) == (40, {"budget": 7.0})
    assert (second.think_length, second.num_forced) == (None, 2)
    assert read_batch(run_file(tmp_path, forced)).step == 39


def test_a_method_pays_with_the_state_it_had_and_another_stage_with_its_first(tmp_path: Path) -> None:
    path = run_file(tmp_path, make_stored_sample(8), make_stored_sample(4), state={"shortest": {"train.jsonl:7": 8}})
    stages = ("{method: hapo, label: second}", "{method: hapo, label: other}", "{method: compress}")
    config = load_config(config_of(tmp_path, *stages), below=BELOW).config
    # h = 8: 1 + cos(pi / 2 * 8 / 8) = 1; 1 + cos(pi / 4)
    assert payment(config, read_batch(path))["rewards"] == [[pytest.approx(1.0), pytest.approx(1 + 0.5**0.5)]]
    assert payment(config, read_batch(path), "other")["rewards"] == [[1.0, 1.0]]
    config = load_config(config_of(tmp_path, "{method: compress, label: second}"), below=BELOW).config
    with pytest.raises(DataError, match=r"had a state that compress of stage second cannot read .*own config\.yaml"):
        payment(config, read_batch(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "does not exist"),
        ("torn.json", "{", "is not JSON"),
        ("list.json", "[]", "must hold an object with a list of groups, found list"),
        ("weights.safetensors", "", "is no rollout file of a run"),
    ],
)
def test_a_file_that_is_no_batch_is_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_batch(tmp_path / name)


PER_TOKEN = """
from typing import Literal

import numpy as np

from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.records import DROPPED, Credit
from egrc_mega.sections.stage import StageSection


class RisingSection(StageSection):
    method: Literal["rising"] = "rising"


class Rising(Method[RisingSection, NoState]):
    Config = RisingSection

    def credit(self, groups, view):
        rises = [np.arange(3.0), np.full(8, 0.1), 5.0]
        credits = [Credit(advantage=a, reward=view.step, kept=k) for a, k in zip(rises, (True, True, False))]
        return [[*credits, DROPPED]]
"""


def test_an_advantage_is_one_number_and_where_tokens_differ_their_list_stands_beside_the_median(tmp_path: Path) -> None:
    plugin, batch = tmp_path / "rising.py", tmp_path / "batch.json"
    plugin.write_text(PER_TOKEN)
    batch.write_text(json.dumps(BATCH))
    config = load_config(config_of(tmp_path, "{method: rising}"), [f"plugins=[{plugin}]"], below=BELOW).config
    paid = payment(config, read_batch(batch))
    assert paid == {
        "rewards": [[137, 137, 137, None]],
        "advantages": [[1.0, 0.1, 0.0, 0.0]],
        "token_advantages": [[[0.0, 1.0, 2.0], None, None, None]],
    }
