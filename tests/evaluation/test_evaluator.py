"""What is measured, what is kept and said, and with whose keys the benchmark is read."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.evaluation.evaluator import Evaluator
from egrc_mega.evaluation.sets import evaluation_data, evaluation_profile, training_profile
from egrc_mega.evaluation.store import read_responses, read_table
from egrc_mega.rollout.wire import generation_body
from egrc_mega.seeds import derive_seed
from egrc_mega.testing.points import make_subject
from egrc_mega.testing.samples import make_sample
from egrc_mega.types import Completion, Drawn, RolloutRequest, Sample


class Bench:
    """An evaluator whose servers are counted."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.num_asked = 0
        self.bodies: list[dict[str, Any]] = []
        renderer = Renderer(load_tokenizer(config.model.path), "")
        self.evaluator = Evaluator(config, renderer, (2,), folder, self.generate, self.judge)

    def generate(self, requests: Sequence[RolloutRequest], tell: Any) -> list[Completion]:
        self.num_asked += len(requests)
        self.bodies += [generation_body(request) for request in requests]
        completions = [replace(make_sample(range(5)).completion, rid=request.rid) for request in requests]
        tell(completions)
        return completions

    def judge(self, drawn: Sequence[Drawn], _needs: frozenset[str]) -> list[Sample]:
        return [replace(make_sample(range(5)), problem=one.problem) for one in drawn]

    def lines(self, *place: Any) -> list[str]:
        return [outcome.line() for outcome in self.evaluator.evaluate(make_subject(*place))]


@pytest.fixture
def configure(root: Path, tmp_path: Path) -> Any:
    def build(*overrides: str) -> Config:
        sets = ["evaluation.num_problems=4", "data.train=/missing.jsonl", *overrides]
        return load_config(root / "configs" / "quickstart.yaml", sets).config

    return build


def test_the_same_weights_by_the_same_protocol_are_measured_once_and_that_is_said(
    configure: Any, tmp_path: Path
) -> None:
    first, again = Bench(configure(), tmp_path), Bench(configure(), tmp_path)
    lines = first.lines("base", 0, 0, "w1")
    assert first.num_asked == 8
    assert not any("kept" in line for line in lines)
    kept = again.lines("base", 0, 0, "w1")
    assert again.num_asked == 0
    assert all("(kept: measured before, with the same weights w1 and protocol " in line for line in kept)
    assert [line.split(" (kept")[0] for line in kept] == lines
    assert len(read_table(tmp_path).points) == 2


def test_other_weights_in_the_same_folder_are_measured(configure: Any, tmp_path: Path) -> None:
    bench = Bench(configure(), tmp_path)
    bench.lines("models/a", 0, None, "w1")
    bench.lines("models/b", 0, None, "w2")
    bench.lines("models/a", 0, None, "w3")
    assert bench.num_asked == 24
    assert {(p.label, p.weights) for p in read_table(tmp_path).points} == {("models/a", "w3"), ("models/b", "w2")}


def test_equal_weights_of_another_place_get_a_row_of_their_own_without_being_measured(
    configure: Any, tmp_path: Path
) -> None:
    bench = Bench(configure(), tmp_path)
    bench.lines("base", 0, 0, "w1")
    lines = bench.lines("compress", 1, 5, "w1")
    assert bench.num_asked == 8
    assert all("evaluation of compress" in line and "measured before as base" in line for line in lines)
    places = [(p.label, p.ordinal, p.step) for p in read_table(tmp_path).points]
    assert places == [("base", 0, 0)] * 2 + [("compress", 1, 5)] * 2
    assert len(read_responses(tmp_path)) == 8


def test_what_leaves_for_an_evaluation_is_what_the_configuration_says_field_by_field(
    configure: Any, tmp_path: Path
) -> None:
    fields = ("temperatures=[0.5,0.9]", "top_p=0.8", "max_new_tokens=33", "seed=11", "num_problems=3")
    config = configure("run.seed=3", *(f"evaluation.{field}" for field in fields))
    bench, weights = Bench(config, tmp_path), "0123456789abcdef" * 4
    bench.lines("base", 0, 0, weights)
    rows = [json.loads(line) for line in config.evaluation.data.read_text().splitlines()[:3]]
    tokenizer, instruction = load_tokenizer(config.model.path), config.data.instruction
    neutral = {"top_k": -1, "min_p": 0.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0}
    neutral |= {"min_new_tokens": 0, "ignore_eos": False, "n": 1}
    expected = []
    for temperature, protocol in zip((0.5, 0.9), bench.evaluator.benches[0].protocols, strict=True):
        for i, row in enumerate(rows):
            content = f"{row['problem']} {instruction}" if instruction else row["problem"]
            prompt = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            own = {"temperature": temperature, "top_p": 0.8, "max_new_tokens": 33, "stop_token_ids": (2,)}
            expected.append(
                {
                    "rid": f"evaluate-{weights[:16]}-{protocol.key[:16]}-{i:06d}",
                    "input_ids": tokenizer.encode(prompt, add_special_tokens=False),
                    "sampling_params": neutral | own | {"sampling_seed": derive_seed(11, f"{temperature:g}", i)},
                    "return_logprob": True,
                }
            )
    assert [body | {"input_ids": list(body["input_ids"])} for body in bench.bodies] == expected


@pytest.mark.parametrize(
    "override",
    [
        "evaluation.seed=7",
        "evaluation.num_problems=3",
        "evaluation.max_new_tokens=9",
        "evaluation.top_p=0.5",
        "evaluation.temperatures=[0.5,0.9]",
        "evaluation.instruction=9 a",
        "grading.cpu_s=9",
        "grading.profile=math",
        "grading.grader={grader: deepscaler}",
        "rollout.environment={name: noisy_arithmetic, probability: 0.2}",
    ],
)
def test_another_protocol_is_measured(configure: Any, tmp_path: Path, override: str) -> None:
    Bench(configure(), tmp_path).lines("base", 0, 0, "w1")
    bench = Bench(configure(override), tmp_path)
    bench.lines("base", 0, 0, "w1")
    assert bench.num_asked == 2 * bench.evaluator.benches[0].protocols[0].num_problems


def test_another_benchmark_of_the_same_name_is_measured(configure: Any, tmp_path: Path) -> None:
    benchmark, hashes = tmp_path / "own.jsonl", set()
    for answer in ("1", "2"):
        benchmark.write_text(json.dumps({"problem": "1 + 1 = ?", "answer": answer}))
        bench = Bench(configure(f"evaluation.data={benchmark}"), tmp_path / "out")
        (tmp_path / "out").mkdir(exist_ok=True)
        bench.lines("base", 0, 0, "w1")
        assert bench.num_asked == 2
        hashes.add(bench.evaluator.benches[0].protocols[0].prompts_sha256)
    # golds are hashed with the prompts
    assert len(hashes) == 2


def test_how_many_graders_there_are_is_no_part_of_the_protocol(configure: Any, tmp_path: Path) -> None:
    Bench(configure(), tmp_path).lines("base", 0, 0, "w1")
    bench = Bench(configure("grading.num_workers=7"), tmp_path)
    bench.lines("base", 0, 0, "w1")
    assert bench.num_asked == 0


def test_the_benchmark_is_read_with_its_own_keys_and_instruction(configure: Any, tmp_path: Path) -> None:
    benchmark = tmp_path / "aime.jsonl"
    benchmark.write_text(json.dumps({"Problem": "1 + 1 = ?", "Answer": 2}))
    keys = ("evaluation.prompt_key=Problem", "evaluation.answer_key=Answer", "evaluation.instruction=9 a")
    bench = Bench(configure(f"evaluation.data={benchmark}", *keys), tmp_path)
    [asked] = bench.evaluator.benches[0].asked
    assert (asked.problem.text, asked.problem.answer) == ("1 + 1 = ?", "2")
    plain = Bench(configure(f"evaluation.data={benchmark}", *keys[:2]), tmp_path)
    assert list(asked.prompt_ids) != list(plain.evaluator.benches[0].asked[0].prompt_ids)


def test_keys_that_the_evaluation_does_not_state_are_the_training_datas(configure: Any) -> None:
    config = configure(
        "data.prompt_key=question", "data.answer_key=gold", "data.instruction=8 a", "evaluation.answer_key=a"
    )
    section = evaluation_data(config)
    assert (section.prompt_key, section.answer_key, section.instruction) == ("question", "a", "8 a")
    assert section.train == config.evaluation.data
    # none is one as well
    plain = evaluation_data(configure("data.instruction=8 a", "evaluation.instruction=''"))
    assert plain.instruction == ""


def test_facts_that_methods_ask_of_the_training_data_are_not_asked_of_the_benchmark(
    configure: Any, tmp_path: Path
) -> None:
    bench = Bench(configure("data.facts=[reference_accuracy]"), tmp_path)
    assert len(bench.evaluator.benches[0].asked) == 4


def test_golds_are_understood_by_the_profile_of_their_set_unless_the_grader_judges_no_mathematics(
    configure: Any, tmp_path: Path
) -> None:
    math = configure("grading.profile=amc", "evaluation.profile=aime", "grading.grader={grader: deepscaler}")
    assert (training_profile(math), evaluation_profile(math)) == ("amc", "aime")
    assert evaluation_profile(configure("grading.profile=amc")) == "amc"
    plugin = tmp_path / "length.py"
    plugin.write_text(
        "from typing import Literal\n"
        "from egrc_mega.grading.grader import Grader, GraderSection\n"
        "class LengthSection(GraderSection):\n"
        "    grader: Literal['length'] = 'length'\n"
        "    'Which grader.'\n"
        "class Length(Grader):\n"
        "    Config = LengthSection\n"
        "    def judge(self, answer, gold, hints): ...\n"
    )
    own = configure(f"plugins=[{plugin}]", "grading.grader={grader: length}")
    assert (training_profile(own), evaluation_profile(own)) == (None, None)
