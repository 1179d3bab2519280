"""A dry run reads every row, renders every prompt and proves every gold, and refuses what a run would refuse."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from egrc_mega.config.load import load_config
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.errors import ConfigError, DataError, ModelError
from egrc_mega.launch.dry_run import dry_run
from egrc_mega.launch.notes import notes
from egrc_mega.miniature.tokenizer import write_tokenizer


def plan(root: Path, *overrides: str) -> str:
    return dry_run([root / "configs/quickstart.yaml"], overrides, num_nodes=1, num_processes=1)


def test_the_plan_has_a_page_for_both_files(root: Path) -> None:
    page = plan(root)
    train, benchmark = page.split("data.train\n")[1].split("evaluation.data\n")
    for part, count in ((train, 4096), (benchmark, 512)):
        assert f"jsonl: {count} rows, 0 of them quarantined" in part
        assert f"integer            {count:>6}  100.0%" in part.replace("integer          ", "integer            ", 1)
        assert "chat_template.jinja: it opens the think part" in part
        assert "tokens, 15." in part


def test_rows_that_a_run_would_refuse_are_refused(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "crash.jsonl"
    path.write_text('{"problem": "9 a", "answer": "1"}\n{"problem": "9 b", "answer": %s}' % ("9" * 400))
    for field in ("data.train", "evaluation.data"):
        with pytest.raises(
            DataError, match=rf"{path}: 1 of 2 rows are malformed.*first: line 2: 'answer' must be a fin"
        ):
            plan(root, f"{field}={path}")


def test_a_template_that_fails_and_a_prompt_that_is_too_long_are_refused(
    root: Path, tmp_path: Path, base_model: Path
) -> None:
    with pytest.raises(
        ConfigError, match="150 cannot hold the longest prompt of 20 tokens and a response of 144; raise it"
    ):
        plan(root, "policy.max_tokens_per_micro_batch=150")
    folder = tmp_path / "model"
    folder.mkdir()
    write_tokenizer(folder)
    config = json.loads((base_model / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ModelError, match=rf"the chat template {folder}/chat_template\.jinja has no generation prompt"):
        plan(root, f"model.path={folder}")
    for file in folder.iterdir():
        if file.name != "config.json":
            file.unlink()
    assert "template not rendered: no model" in plan(root, f"model.path={folder}")


def test_what_methods_ask_is_proved_on_the_data(root: Path, tmp_path: Path) -> None:
    stage = "stages=[{method: adaptthink, rollout: {n: 2}, thinking_cap: 400, no_thinking_cap: 100}]"
    with pytest.raises(ConfigError, match=r"data\.facts: \[\] lacks 'reference_accuracy'"):
        plan(root, stage)
    path = tmp_path / "train.jsonl"
    path.write_text('{"problem": "9 a + 1 = ?", "answer": "0", "reference_accuracy": 0.5}')
    sets = [stage, "data.facts=[reference_accuracy]", f"data.train={path}", "policy.max_tokens_per_micro_batch=20480"]
    with pytest.raises(ConfigError, match="forces responses to begin with '</think>', for which the tokenizer"):
        plan(root, *sets)


def test_facts_that_rows_lack_are_refused(root: Path) -> None:
    words = "no_thinking: ' </think>', thinking: ' Then'"
    stage = f"stages=[{{method: adaptthink, rollout: {{n: 2}}, thinking_cap: 400, no_thinking_cap: 100, {words}}}]"
    sets = [stage, "data.facts=[reference_accuracy]", "policy.max_tokens_per_micro_batch=20480"]
    with pytest.raises(DataError, match=r"4096 of 4096 rows are malformed.*key 'reference_accuracy' is missing"):
        plan(root, *sets)


def test_prompts_count_for_the_models_positions_each_file_with_its_own(root: Path) -> None:
    with pytest.raises(ConfigError) as error:
        plan(root, "stages.explore.rollout.max_new_tokens=500", "evaluation.max_new_tokens=505")
    first, second = str(error.value).splitlines()
    assert first.startswith("stages.explore: a response of 500 tokens and the longest prompt of 20 do not fit")
    assert second.startswith("evaluation.max_new_tokens: a response of 505 tokens and the longest prompt of ")


def test_a_plan_says_what_checkpoints_need_of_the_disk_and_what_is_not_on_this_machine(
    root: Path, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10**9

    def disk_usage(place: Path) -> SimpleNamespace:
        assert place == tmp_path  # of the run's folder, which is not there yet
        return SimpleNamespace(free=free)

    def lines(*overrides: str) -> list[str]:
        config = load_config([root / "configs/quickstart.yaml"], [f"run.dir={tmp_path}/a/b", *overrides]).config
        return list(notes(config, read_architecture(base_model)))

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    monkeypatch.setattr("egrc_mega.rollout.start.sglang.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    count = sum(tensor.numel() for tensor in load_file(base_model / "model.safetensors").values())
    step, needed = (
        count * 12,
        count * (5 * 12 + 3 * 4),
    )  # float32 with two moments; two stay, one is written, two stages
    [line] = lines()
    assert line == (
        f"disk     {tmp_path}: 1.0 GB free; a checkpoint takes {step / 1e9:.1f} GB, 5 of them, the export and the "
        f"servers' weights {needed / 1e9:.1f} GB"
    )
    free = needed - 10**7
    _disk, note, environment = lines("rollout.server=sglang")
    assert note.startswith("note     run.dir: that is 0.0 GB more than is free on this machine; make room")
    assert environment.startswith(
        f"note     rollout.python: no SGLang environment at {tmp_path}/.venv-serve/bin/python"
    )
    # bf16: masters and two moments beside two bytes of weights
    assert f"a checkpoint takes {count * 14 / 1e9:.1f} GB" in lines("megatron.bf16=true")[0]
