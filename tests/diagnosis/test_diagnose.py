"""`egrc diagnose` as it is called: its tables, its files, its refusals; and the miniature's base under it."""

import gzip
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from egrc_mega.convert.hf_model import load_hf_model
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.diagnosis.diagnosis import diagnose
from egrc_mega.diagnosis.question import Question, TokenSettings
from egrc_mega.embedded.batch import DecodingBatch, Request
from egrc_mega.embedded.sampling import SamplingParams
from egrc_mega.errors import ConfigError, ModelError
from egrc_mega.miniature.dataset import eval_problems
from egrc_mega.observe.rollout_file import StoredGroup
from egrc_mega.observe.rollouts import RolloutLog, step_path
from egrc_mega.testing import forked
from egrc_mega.testing.rollouts import make_stored_sample
from egrc_mega.types import Problem


def egrc(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return forked.run([sys.executable, "-P", "-m", "egrc_mega.cli.main", *arguments], timeout_s=280)


def row(number: int, text: str, right: bool, length: int) -> dict[str, Any]:
    return {
        "problem": f"problem {number}",
        "target_answer": "4",
        "completion": text,
        "output_length": length,
        "pass_or_fail": right,
    }


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Responses, and those from before the compression."""
    base = [row(1, "Hmm.\n\nWait. So\n\n4", True, 90), row(2, "no, " * 200, False, 400), row(3, "Wait\n\n4", True, 30)]
    own = [row(2, "So\n\n5 <script>", False, 20), row(1, "4", True, 10), row(3, "4\n\n4", True, 12)]
    paths = tmp_path / "own.json.gz", tmp_path / "base.jsonl"
    paths[0].write_bytes(gzip.compress(json.dumps(own).encode()))
    paths[1].write_text("\n".join(map(json.dumps, base)))
    return paths


def test_texts_alone_are_counted_compared_and_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    own, base = files
    out = tmp_path / "out"
    done = egrc("diagnose", str(own), "--base", str(base), "--out", str(out))
    assert done.returncode == 0, done.stderr
    for shown in ("base all", "base responses that loop", "base.jsonl", "connectors at", "redundant"):
        assert shown in done.stdout, shown
    result = json.loads((out / "diagnosis.json").read_text())
    assert result["texts"]["by_verdict"]["all"]["num_loops"] == 0
    assert result["base_texts"]["by_verdict"]["all"]["num_loops"] == 1
    assert [bar["own"]["length"] for bar in result["bars"]] == [10, 20, 12]
    assert [bar["base"]["steps"] for bar in result["bars"]] == [3, 1, 2]
    assert (result["tokens"], result["objectives"]) == (None, [])
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    assert [each["length"] for each in rows] == [20, 10, 12]
    assert sorted(path.name for path in out.iterdir()) == ["diagnosis.json", "responses.jsonl", "steps.svg"]


def test_without_a_folder_nothing_is_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert diagnose(Question(rollouts=files[0]))["texts"]["by_verdict"]["all"]["num"] == 3
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "fault"),
    [
        (["nowhere.json"], 3, "nowhere.json cannot be read"),
        (["own.json.gz", "--base", "nowhere.json"], 3, "nowhere.json cannot be read"),
        (["own.json.gz", "--step-mark", ""], 2, "--step-mark: is empty"),
        (["nowhere", "own.json.gz"], 4, "nowhere is not a folder"),
        (["own.json.gz", "--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["."], 7, "holds no rollouts"),
    ],
)
def test_what_cannot_be_diagnosed_is_refused_in_one_line(
    arguments: list[str], code: int, fault: str, files: tuple[Path, Path]
) -> None:
    folder = files[0].parent
    given = [each if each.startswith("-") or not each else str(folder / each) for each in arguments]
    done = egrc("diagnose", *given)
    errors = [line for line in done.stderr.splitlines() if line.startswith("egrc: error: ")]
    assert (done.returncode, len(errors)) == (code, 1), done.stderr
    assert fault in errors[0]
    assert "Traceback" not in done.stderr


def test_a_mark_that_is_empty_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--step-mark"):
        diagnose(Question(rollouts=tmp_path / "nowhere", step_mark=""))


def test_a_model_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        diagnose(Question(rollouts=tmp_path / "nowhere.json", model=tmp_path / "no_model"))


def sampled(model_path: Path, renderer: Renderer, num: int) -> list[tuple[str, list[list[int]]]]:
    """Problems, each with the output ids of two responses that the model samples at temperature 1."""
    model = load_hf_model(model_path)
    texts = [each.text() for each in eval_problems()[:num] for _ in range(2)]
    requests = []
    for i, text in enumerate(texts):
        prompt = renderer.prompt_ids(Problem(key="", text=text, answer="")).tolist()
        params = SamplingParams(max_new_tokens=220, sampling_seed=i)
        requests.append(Request(str(i), prompt, params, frozenset({2}), uniforms=params.uniforms()))
    with torch.inference_mode():
        batch = DecodingBatch(model, requests, "v0")
        while not batch.is_done:
            batch.step("v0")
    outputs = [request.output_ids for request in requests]
    return [(texts[i], outputs[i : i + 2]) for i in range(0, 2 * num, 2)]


@pytest.fixture(scope="module")
def run(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with 64 responses of the miniature's base in one step, and its configuration.

    Of each pair the shorter one is called right, so that both objectives have something to say.
    """
    folder = tmp_path_factory.mktemp("run")
    renderer = Renderer(load_tokenizer(base_model), "")
    groups = []
    for number, (prompt, outputs) in enumerate(sampled(base_model, renderer, 32)):
        samples = []
        for ids, grade in zip(sorted(outputs, key=len), ("right", "wrong"), strict=True):
            output = np.array(ids, np.int32)
            samples.append(
                make_stored_sample(
                    len(ids),
                    grade=grade,
                    well_formed=grade == "right",
                    truncated=ids[-1] != 2,
                    text=renderer.decode(output),
                    output_ids=output,
                    sampled=np.ones(len(ids), np.bool_),
                    logprobs=np.zeros(len(ids), np.float32),
                )
            )
        groups.append(StoredGroup(key=f"eval.jsonl:{number + 1}", prompt=prompt, answer="0", samples=tuple(samples)))
    with RolloutLog(folder / "rollouts", 2**24) as log:
        log.write(1, "compress", groups)
    stages = [{"method": "compress", "steps": 1, "clip_len": 120}, {"method": "explore", "steps": 1, "clip_len": 120}]
    (folder / "config.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return folder


@pytest.fixture(scope="module")
def diagnosed(run: Path, base_model: Path) -> dict[str, Any]:
    settings = TokenSettings(num_block_gradients=48, num_full_gradients=16)
    return diagnose(
        Question(
            rollouts=step_path(run / "rollouts", 1),
            model=base_model,
            out=run / "out",
            step_mark=";",
            tokens=settings,
        )
    )


def test_on_the_miniatures_base_a_fifth_of_the_tokens_holds_most_of_the_entropy(diagnosed: dict[str, Any]) -> None:
    assert diagnosed["tokens"]["entropy"]["share_of_top_fifth"] >= 0.8


def test_on_the_miniatures_base_connectors_are_uncertain_and_digits_are_not(diagnosed: dict[str, Any]) -> None:
    tokens = diagnosed["tokens"]
    assert tokens["connectors"]["entropy"] > 1.2
    assert tokens["classes"]["step"]["entropy"] > 1.2
    assert tokens["classes"]["recheck"]["entropy"] > 1.2
    assert tokens["classes"]["digit"]["entropy"] < 0.25
    assert tokens["parts"]["answer"]["entropy"] < tokens["parts"]["think"]["entropy"]
    words = [word["text"] for word in tokens["clouds"]["high"][:7]]
    assert set(words) == {"So", "Then", "Next", "Therefore", "Wait", "Hmm", "Alternatively"}


def test_the_miniatures_base_says_four_redundant_connectors_a_response(diagnosed: dict[str, Any]) -> None:
    assert diagnosed["texts"]["by_verdict"]["all"]["redundant"] >= 4
    assert diagnosed["tokens"]["redundant_per_response"] == diagnosed["texts"]["by_verdict"]["all"]["redundant"]


def test_entropy_and_gradient_go_together_over_all_tokens_and_less_so_within_bins(diagnosed: dict[str, Any]) -> None:
    sizes = diagnosed["tokens"]["entropy_gradient"]
    assert sizes["logits"]["pearson"] > 0.85
    assert sizes["logits"]["by_probability"][0]["pearson"] < 0
    assert sizes["last_block"]["spearman"] > 0.7
    assert sizes["full"]["num"] == 16


def test_the_objectives_are_those_of_the_runs_own_configuration(diagnosed: dict[str, Any]) -> None:
    [step] = diagnosed["objectives"]
    assert step["step"] == 1
    wait = step["conflict"]["same_rollouts"]["Wait"]
    assert wait["compress"] > 0
    assert step["gradients"]["num_samples"] > 0
    assert -1 <= step["gradients"]["same_rollouts"]["cosine"] <= 1
    assert step["gradients"]["same_rollouts"]["compress"] > 0


def test_a_configuration_that_is_given_counts_before_the_runs_own(run: Path, tmp_path: Path) -> None:
    """At L = 4000 a right response of a hundred tokens is paid nearly whole, at L = 120 a fraction."""
    stages = [{"method": "compress", "steps": 1, "clip_len": 4000}, {"method": "explore", "steps": 1, "clip_len": 4000}]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"stages": stages}))
    file = step_path(run / "rollouts", 1)
    masses = [
        diagnose(Question(rollouts=file, config=config))["objectives"][0]["conflict"]["same_rollouts"]["all tokens"]
        for config in (None, tmp_path / "other.yaml")
    ]
    assert masses[0]["compress"] < 0.8 * masses[1]["compress"]


def test_each_figure_is_a_drawing_that_asks_for_nothing(diagnosed: dict[str, Any], run: Path) -> None:
    names = sorted(path.name for path in (run / "out").glob("*.svg"))
    assert names == ["entropy_gradient.svg", "steps.svg", "words_high.svg", "words_low.svg"]
    for name in names:
        content = (run / "out" / name).read_text()
        root = ElementTree.fromstring(content)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "<script" not in content


def test_the_heat_map_has_an_entropy_and_an_end_for_every_token(diagnosed: dict[str, Any], run: Path) -> None:
    rows = [json.loads(line) for line in (run / "out" / "heatmap.jsonl").read_text().splitlines()]
    assert len(rows) == 64
    for each in rows:
        assert len(each["token_ends"]) == len(each["entropy"])
        assert each["token_ends"][-1] == len(each["text"])
    connectors = [
        entropy
        for begin, end, entropy in zip(
            [0, *rows[0]["token_ends"]], rows[0]["token_ends"], rows[0]["entropy"], strict=False
        )
        if rows[0]["text"][begin:end].strip() in ("So", "Then", "Next", "Therefore", "Wait", "Hmm", "Alternatively")
    ]
    assert min(connectors) > 0.2


def test_steps_of_the_miniature_are_told_by_its_own_mark(diagnosed: dict[str, Any]) -> None:
    assert diagnosed["texts"]["by_verdict"]["all"]["steps"]["mean"] > 4


def test_the_same_question_gives_the_same_files(diagnosed: dict[str, Any], run: Path, base_model: Path) -> None:
    own = [row(1, "So\n\n4", True, 90)]
    path = run / "responses.json"
    path.write_text(json.dumps(own))
    for name in ("a", "b"):
        diagnose(Question(rollouts=path, out=run / name))
    for name in ("diagnosis.json", "responses.jsonl", "steps.svg"):
        assert (run / "a" / name).read_bytes() == (run / "b" / name).read_bytes()


def test_a_word_that_no_font_has_and_one_that_is_markup_are_drawn(tmp_path: Path) -> None:
    from egrc_mega.report.diagnosis_figures import draw_words

    texts = ["<script>alert(1)</script>", "$x$ & <b>", "\ud800", "\n\n", "木", "$\\frac{", "a" * 500]
    draw_words([{"text": text, "entropy": i, "count": 9} for i, text in enumerate(texts)], "w", tmp_path / "w.svg")
    content = (tmp_path / "w.svg").read_text()
    ElementTree.fromstring(content)
    assert "<script" not in content


def test_in_a_cloud_the_first_word_is_the_largest_whichever_end_it_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from egrc_mega.report import diagnosis_figures

    seen: list[Any] = []
    monkeypatch.setattr(diagnosis_figures, "_lay_out", lambda axes, texts, sizes: seen.append(sizes))
    words = [{"text": text, "entropy": entropy, "count": 9} for text, entropy in (("a", 0.1), ("b", 0.5), ("c", 1.1))]
    for each in (words, words[::-1], words[:1], []):
        diagnosis_figures.draw_words(each, "w", tmp_path / "w.svg")
    low, high, single, none = seen
    assert (low[0], low[-1], high[0], high[-1], single, none) == (21, 7, 21, 7, [14], [])
