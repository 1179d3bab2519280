"""Configurations: every mistake gets one line with the field, the value and the remedy."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from egrc_mega.config.config import Config
from egrc_mega.config.load import LoadedConfig, load_config
from egrc_mega.config.show import render
from egrc_mega.errors import ConfigError, DataError, EgrcError, ModelError
from egrc_mega.sections.base import Section
from egrc_mega.training.preflight import preflight


@pytest.fixture
def quickstart(root: Path) -> Path:
    return root / "configs" / "quickstart.yaml"


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_every_shipped_configuration_loads_and_passes_the_checks(root: Path) -> None:
    files = sorted((root / "configs").glob("*.yaml"))
    assert files
    for file in files:
        config = load_config(file).config
        if file.stem.startswith("quickstart"):  # the recipes' models and data are not part of the project
            preflight(config, world_size=1, local_world_size=1)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rollout.prompts_per_stp=3", "rollout.prompts_per_stp: unknown key; did you mean prompts_per_step?"),
        ("rollout.one_step_ahead=true", "rollout.one_step_ahead: unknown key; it has become rollout.mode: ahead"),
        ("rollout.max_version_lag=3", "rollout.max_version_lag: unknown key; it has become rollout.max_staleness"),
        ("rolout.port=3", "rolout: unknown key; did you mean rollout?"),
        ("stages.compress.clip_length=3", "stages.compress.clip_length: unknown key; did you mean clip_len?"),
        ("stages.explore.reward.formatt=1", "stages.explore.reward.formatt: unknown key; did you mean format?"),
        ("stages.compress.shape.zzz=1", "stages.compress.shape.zzz: unknown key; remove it"),
        (
            "rollout.prompts_per_step=many",
            "rollout.prompts_per_step: 'many' is not usable: input should be a valid integer",
        ),
        ("rollout.port=70000", "rollout.port: 70000 is not usable: input should be less than or equal to 65535"),
        ("stages.compress.optim.lr=-1", "stages.compress.optim.lr: -1 is not usable: input should be greater than 0"),
        (
            "stages.compress.method=compres",
            "stages.0.method: there is no method 'compres'; did you mean compress? (there are ",
        ),
        ("stages=[{steps: 3}]", "stages.0.method: required, but missing"),
        ("stages=[]", "stages: [] is not usable"),
        ("stages=[{method: compress, steps: x}, {method: compress}]", "stages.0.steps: 'x' is not usable"),
        ("stages=[{method: compress, label: short, steps: x}]", "stages.short.steps: 'x' is not usable"),
        ("evaluation.temperatures=3", "evaluation.temperatures: 3 is not usable: input should be a list"),
        ("grading.grader.grader=maths", "grading.grader.grader: there is no grader 'maths'; did you mean math?"),
        ("data.source={source: fil}", "data.source.source: there is no source 'fil'; did you mean file?"),
        (
            "stages.explore.reward.more=[{reward: overlong, start: 3, bufer: 3}]",
            "stages.explore.reward.more.0.buffer: required, but missing\n"
            "stages.explore.reward.more.0.bufer: unknown key; did you mean buffer?",
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(quickstart: Path, override: str, expected: str) -> None:
    text = message(quickstart, override)
    assert text.count("\n") == expected.count("\n")
    assert text.startswith(expected)


def test_all_mistakes_are_listed_at_once(quickstart: Path) -> None:
    text = message(quickstart, "rollout.port=-1", "run.sed=3", "stages.explore.steps=0")
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rollout.port", "expected key=value"),
        ("stages.middle.steps=3", "there is no stage 'middle', stages are ['compress', 'explore']"),
        ("run.seed.x=3", "seed is a value, not a section"),
        ("run.seed=[", "not YAML"),
    ],
)
def test_a_broken_override_is_refused(quickstart: Path, override: str, expected: str) -> None:
    assert expected in message(quickstart, override)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "must hold a mapping"),
        ("run: {dir: x}\nrun: {dir: y}", "key run stands twice"),
        ("run: {dir: x}", "model: required, but missing"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    assert expected in message(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"config file {tmp_path / 'no.yaml'} does not exist" in message(tmp_path / "no.yaml")


def test_paths_are_relative_to_the_file_and_overrides_to_the_working_directory(
    quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(quickstart, ["run.dir=here"]).config
    assert config.run.dir == tmp_path / "here"
    assert config.data.train == root / "egrc_mega" / "miniature" / "assets" / "train.jsonl"


def test_the_shown_configuration_loads_again_and_says_where_values_come_from(quickstart: Path) -> None:
    loaded = load_config(quickstart, ["rollout.prompts_per_step=5", "stages.explore.steps=9"])
    text = render(loaded)
    assert "prompts_per_step: 5  # --set" in text
    assert "steps: 9  # --set" in text
    assert f"clip_len: 72  # {quickstart}" in text
    assert "num_servers: 1  # default" in text
    assert Config.model_validate(yaml.safe_load(text)) == loaded.config


def checked(loaded: LoadedConfig, world_size: int = 1) -> EgrcError:
    with pytest.raises(EgrcError) as caught:
        preflight(loaded.config, world_size, world_size)
    return caught.value


@pytest.mark.parametrize(
    ("overrides", "world_size", "kind", "expected"),
    [
        (["model.path=/nowhere"], 1, ModelError, "model.path: /nowhere is not a folder"),
        (["data.train=/no.jsonl"], 1, DataError, "data.train: /no.jsonl does not exist"),
        (["evaluation.data=/no.jsonl"], 1, DataError, "evaluation.data: /no.jsonl does not exist"),
        (["megatron.tensor_model_parallel_size=3"], 3, ConfigError, "3 does not divide the 4 attention heads"),
        (["megatron.tensor_model_parallel_size=8"], 8, ConfigError, "8 does not divide the 4 attention heads"),
        (["megatron.expert_model_parallel_size=2"], 2, ConfigError, "2 does not divide the 0 experts"),
        (["megatron.pipeline_model_parallel_size=3"], 3, ConfigError, "3 stages, but only 2 layers"),
        (["megatron.tensor_model_parallel_size=2"], 3, ConfigError, "--nproc-per-node: 3 is no multiple"),
        (
            ["megatron.pipeline_model_parallel_size=2", "megatron.virtual_pipeline_model_parallel_size=2"],
            2,
            ConfigError,
            "needs pipeline_model_parallel_size 3 or more, not 2",
        ),
        (["megatron.sequence_parallel=true"], 1, ConfigError, "tensor_model_parallel_size is 1; set it to false"),
        (["megatron.recompute_granularity=full"], 1, ConfigError, "needs recompute_method and recompute_num_layers"),
        (["megatron.recompute_num_layers=1"], 1, ConfigError, "only for recompute_granularity full"),
        (
            ["megatron.context_parallel_size=2", "stages.explore.loss.ratio=sequence"],
            2,
            ConfigError,
            "stages.explore.loss.ratio: sequence needs whole responses on a rank",
        ),
        (["megatron.transformer_impl=transformer_engine"], 1, ConfigError, "transformer_engine is not installed"),
        (["megatron.use_precision_aware_optimizer=true"], 1, ConfigError, "true needs transformer_engine"),
        (["megatron.exp_avg_dtype=bf16"], 1, ConfigError, "need use_precision_aware_optimizer"),
        (["rollout.server=external"], 1, ConfigError, "rollout.urls: empty"),
        (["rollout.urls=[http://x]"], 1, ConfigError, "rollout.urls: given"),
        (["rollout.hosts_file=hosts"], 1, ConfigError, "rollout.hosts_file: given, but rollout.server is embedded"),
        (
            ["rollout.mode=ahead"],
            1,
            ConfigError,
            "stages.compress.loss.tis_cap: null, but rollout.mode: ahead trains on tokens of older",
        ),
        (
            ["rollout.mode=async"],
            1,
            ConfigError,
            "tis_cap: null, but rollout.mode: async trains on",
        ),
        (
            ["rollout.mode=async", "rollout.over_sampling=1.5"],
            1,
            ConfigError,
            "rollout.over_sampling: 1.5, but rollout.mode: async waits for no batch",
        ),
        (
            ["rollout.mode=async", "rollout.partial_rollouts=true"],
            1,
            ConfigError,
            "rollout.partial_rollouts: true, but rollout.mode: async aborts nothing",
        ),
        (["rollout.partial_rollouts=true"], 1, ConfigError, "but rollout.partial_rollouts trains on tokens of older"),
        (
            ["rollout.mode=async", "rollout.colocated=true"],
            1,
            ConfigError,
            "rollout.mode: async, but colocated servers cannot sample while the policy trains",
        ),
        (
            ["rollout.colocated=true"],
            1,
            ConfigError,
            "rollout.colocated: true, but embedded servers have no GPU memory",
        ),
        (
            ["rollout.server=sglang", "rollout.colocated=true", "sync.cache=keep"],
            1,
            ConfigError,
            "sync.cache: keep, but colocated servers free their cache while the policy trains",
        ),
        (
            ["rollout.gpus=[0,1]", "rollout.num_servers=2", "rollout.tensor_parallel_size=2"],
            1,
            ConfigError,
            "rollout.gpus: [0, 1], but rollout.num_servers x tensor_parallel_size need 4",
        ),
        (["rollout.gpus=[1,1]", "rollout.num_servers=2"], 1, ConfigError, "need 2 different ones"),
        (["rollout.sglang_args=[--api-key=k]"], 1, ConfigError, "rollout.sglang_args: a key stands there"),
        (
            ["stages.explore.rollout.drop_groups=no_advantage", "stages.explore.advantage_scope=batch"],
            1,
            ConfigError,
            "stages.explore.advantage_scope: batch, but rollout.drop_groups: no_advantage asks each group",
        ),
        (
            ["stages.explore.rollout.top_p=0.9"],
            1,
            ConfigError,
            "stages.explore.rollout.top_p: 0.9, but servers name what a token was drawn from only where it is bounded",
        ),
        (
            ["stages.explore.rollout.n=1"],
            1,
            ConfigError,
            "stages.explore.rollout.n: 1, but a group of one has no statistics and no advantage; raise it",
        ),
        (["sync.transport=ipc"], 1, ConfigError, "sync.transport: ipc needs servers of SGLang that the run starts"),
        (
            ["rollout.server=sglang", "rollout.device=cuda", "rollout.num_servers=2"],
            1,
            ConfigError,
            "rollout.gpus: [0] are the trainer's, servers would take [0, 1]",
        ),
        (
            ["rollout.server=sglang", "rollout.device=cuda", "rollout.num_servers=2", "rollout.gpus=[3,4]"],
            4,
            ConfigError,
            "rollout.gpus: [3] are the trainer's, servers would take [3, 4]",
        ),
        (
            ["rollout.server=sglang", "rollout.device=cuda", "rollout.colocated=true", "sync.transport=distributed"],
            1,
            ConfigError,
            "sync.transport: distributed, but NCCL takes no two processes on one GPU",
        ),
        (["policy.max_tokens_per_micro_batch=100"], 1, ConfigError, "cannot hold a prompt and the 144 tokens"),
        (["stages.explore.optim.num_updates_per_rollout=17"], 1, ConfigError, "17 updates"),
        (
            ["stages.explore.label=compress"],
            1,
            ConfigError,
            "stages: 2 stages are called compress; give each",
        ),
        (["stages.explore.label=base"], 1, ConfigError, "stages.base.label: base names another row of the table"),
        (["stages.explore.plateau={min_steps: 61}"], 1, ConfigError, "stages.explore.plateau.min_steps: 61, but"),
        (["run.lead_timeout_s=1800"], 1, ConfigError, "run.lead_timeout_s: 1800, but one request may take"),
    ],
)
def test_contradictions_are_found_before_anything_starts(
    quickstart: Path, overrides: list[str], world_size: int, kind: type, expected: str
) -> None:
    error = checked(load_config(quickstart, overrides), world_size)
    assert type(error) is kind
    assert expected in str(error)


def test_old_tokens_may_be_trained_on_unweighed_where_that_is_said(quickstart: Path) -> None:
    asked = ["rollout.mode=async", "rollout.allow_uncorrected=true"]
    preflight(load_config(quickstart, asked).config, world_size=1, local_world_size=1)


def test_every_field_is_described() -> None:
    def sections(model: type[Section]) -> set[type[Section]]:
        return {model, *(s for child in model.__subclasses__() for s in sections(child))}

    undescribed = [
        f"{section.__name__}.{name}"
        for section in sections(Section)
        for name, field in section.model_fields.items()
        if not field.description
    ]
    assert undescribed == []


def test_configuration_imports_no_torch() -> None:
    code = "import egrc_mega.config.load, egrc_mega.config.check, sys; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr


@pytest.mark.parametrize("text", ["a: " + "[" * 2000, "a: 2024-13-45", "a: " + "9" * 5000, "a: \x00"])
def test_yaml_that_its_library_stumbles_over_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(file)


@pytest.mark.parametrize("stages", ["5", "{a: 1}", "null"])
def test_a_stage_of_stages_that_are_no_list_is_not_there(stages: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"stages: {stages}")
    for place in ("0", "\u00b2"):  # a digit that is no number
        with pytest.raises(ConfigError, match="there is no stage"):
            load_config(file, [f"stages.{place}.steps=1"])
