"""Configurations that are composed of files, and methods, rewards, graders and sources that come from plugins."""

import re
from pathlib import Path

import pytest
import yaml

from egrc_mega.config.catalogue import catalogue
from egrc_mega.config.config import FAMILIES
from egrc_mega.config.load import load_config, validated
from egrc_mega.config.show import render
from egrc_mega.errors import ConfigError
from egrc_mega.methods.method import METHODS

PLUGIN = '''
"""Everything that a plugin may bring."""

from typing import Literal

from egrc_mega.data.source import Source, SourceSection
from egrc_mega.grading.grader import Grader, GraderSection
from egrc_mega.methods.method import Method, NoState
from egrc_mega.methods.normalise import centred, over_groups
from egrc_mega.methods.reward import Reward, RewardSection
from egrc_mega.sections.stage import LossSection, SamplingSection, StageSection
from egrc_mega.types import Grade


class TasteSection(StageSection):
    """A method of one's own."""

    method: Literal["taste"] = "taste"
    """Which method."""
    sweetness: float = 0.5
    """How sweet."""
    rollout: SamplingSection = SamplingSection(n=3)
    """Sampling."""
    loss: LossSection = LossSection(ratio="token", eps_clip=0.3)
    """Loss."""


class Taste(Method[TasteSection, NoState]):
    Config = TasteSection
    source = "nowhere"

    def credit(self, groups, view):
        return over_groups(groups, lambda sample: {"sweet": self.section.sweetness * sample.length}, centred)


class SourSection(RewardSection):
    """A reward of one's own."""

    reward: Literal["sour"] = "sour"
    """Which reward."""
    acid: float = 1.0
    """How sour."""


class Sour(Reward):
    Config = SourSection

    def __call__(self, sample):
        return -self.section.acid


class CoinSection(GraderSection):
    """A grader of one's own."""

    grader: Literal["coin"] = "coin"
    """Which grader."""
    heads: bool = True
    """What it says."""


class Coin(Grader):
    Config = CoinSection

    def judge(self, answer, gold):
        return Grade.RIGHT if self.section.heads else Grade.WRONG


class ListSection(SourceSection):
    """A source of one's own."""

    source: Literal["list"] = "list"
    """Which source."""


class List(Source):
    Config = ListSection

    def rows(self, path):
        yield 1, {"problem": path.name, "answer": "7"}
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "taste.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def quickstart(root: Path) -> Path:
    return root / "configs" / "quickstart.yaml"


def layer(tmp_path: Path, name: str, **content: object) -> Path:
    path = tmp_path / name
    path.write_text(yaml.safe_dump(content))
    return path


def test_later_files_win_value_by_value_and_provenance_says_which(quickstart: Path, tmp_path: Path) -> None:
    first = layer(tmp_path, "first.yaml", rollout={"prompts_per_step": 4, "num_servers": 2}, policy={"kernels": "auto"})
    second = layer(tmp_path, "second.yaml", rollout={"prompts_per_step": 5})
    loaded = load_config([quickstart, first, second])
    rollout = loaded.config.rollout
    assert (rollout.prompts_per_step, rollout.num_servers) == (5, 2)
    assert loaded.provenance["rollout.prompts_per_step"] == str(second)
    assert loaded.provenance["rollout.num_servers"] == str(first)
    assert loaded.provenance["run.seed"] == str(quickstart)
    assert f"prompts_per_step: 5  # {second}" in render(loaded)


def test_a_list_is_replaced_as_a_whole(quickstart: Path, tmp_path: Path) -> None:
    stages = layer(tmp_path, "stages.yaml", stages=[{"method": "dapo", "steps": 3}])
    loaded = load_config([quickstart, stages], ["stages.dapo.optim.lr=1e-5"])
    assert [stage.name for stage in loaded.config.stages] == ["dapo"]
    assert loaded.config.stages[0].optim.lr == 1e-5
    assert all(not name.startswith("stages.1") for name in loaded.provenance)


def test_paths_of_each_file_are_relative_to_that_file(quickstart: Path, tmp_path: Path) -> None:
    other = layer(tmp_path, "other.yaml", data={"train": "mine.jsonl"})
    config = load_config([quickstart, other]).config
    assert config.data.train == tmp_path / "mine.jsonl"
    assert config.evaluation.data.parent == quickstart.parent.parent / "egrc_mega/miniature/assets"


def test_the_same_method_may_stand_twice_under_two_labels(quickstart: Path) -> None:
    twice = "stages=[{method: explore, label: first, steps: 2}, {method: explore, label: second, steps: 3}]"
    loaded = load_config(quickstart, [twice, "stages.second.steps=4"])
    assert [(stage.name, stage.steps) for stage in loaded.config.stages] == [("first", 2), ("second", 4)]


def test_cycles_go_through_the_list_again_under_names_of_their_own(quickstart: Path) -> None:
    stages = "stages=[{method: compress, steps: 3}, {method: explore, label: back}]"
    loaded = load_config(quickstart, [stages, "cycles=3", "stages.back.steps=7"])
    assert [(stage.name, stage.steps) for stage in loaded.config.stages] == [
        ("compress", 3),
        ("back", 7),
        ("compress.2", 3),
        ("back.2", 7),
        ("compress.3", 3),
        ("back.3", 7),
    ]
    # what has been written out is what a run keeps, and it loads to itself
    assert validated(loaded.config.to_dict()) == loaded.config
    assert loaded.config.cycles == 1
    origins = [loaded.provenance[f"stages.{place}.steps"] for place in (1, 3, 5)]
    assert origins == ["--set"] * 3
    assert "stages.0.label" not in loaded.provenance and loaded.provenance["stages.4.label"] == "--set"


@pytest.mark.parametrize("cycles", ["0", "101", "2.5", "many"])
def test_a_number_of_cycles_that_is_none_is_refused_by_name(quickstart: Path, cycles: str) -> None:
    with pytest.raises(ConfigError, match="cycles"):
        load_config(quickstart, [f"cycles={cycles}"])


def test_egrc_there_and_back_ends_every_stage_by_its_curves_as_the_page_writes_it(quickstart: Path, root: Path) -> None:
    page = (root / "docs/configuration.md").read_text()
    [written] = re.findall(
        r"--set (cycles=\d) --set '(stages\.compress\.plateau=.*?)' --set '(stages\.explore.*?)'", page
    )
    config = load_config([quickstart, root / "configs/methods/egrc.yaml"], written).config
    assert [stage.name for stage in config.stages] == ["compress", "explore", "compress.2", "explore.2"]
    assert all(stage.plateau for stage in config.stages)


def test_a_section_given_in_part_keeps_its_methods_defaults_for_the_rest(quickstart: Path) -> None:
    [stage] = load_config(quickstart, ["stages=[{method: dapo, loss: {eps_clip: 0.1}, rollout: {n: 4}}]"]).config.stages
    assert (stage.loss.eps_clip, stage.loss.agg, stage.loss.dual_clip) == (0.1, "token-mean", 10.0)
    assert (stage.rollout.n, stage.rollout.drop_groups) == (4, "all_right_or_wrong")


def test_a_plugin_file_brings_methods_rewards_graders_and_sources(
    quickstart: Path, plugin: Path, tmp_path: Path
) -> None:
    own = layer(
        tmp_path,
        "own.yaml",
        plugins=["taste.py"],
        data={"source": {"source": "list"}},
        grading={"grader": {"grader": "coin", "heads": False}},
        stages=[
            {"method": "taste", "loss": {"eps_clip": 0.1}},
            {"method": "explore", "reward": {"more": [{"reward": "sour", "acid": 2.0}]}},
        ],
    )
    config = load_config([quickstart, own]).config
    taste, explore = config.stages
    assert config.plugins == (str(plugin),)
    assert (taste.sweetness, taste.rollout.n, taste.loss.ratio) == (0.5, 3, "token")
    assert explore.reward.more[0].acid == 2.0
    assert config.grading.grader.heads is False
    assert "source: nowhere" in catalogue()
    assert str(plugin) in catalogue()
    # what the run folder keeps loads again, plugins and all
    again = layer(tmp_path, "again.yaml", **config.to_dict())
    assert load_config(again).config == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.0.sweetnes=1", "stages.taste.sweetnes: unknown key; did you mean sweetness?"),
        ("stages.0.sweetness=much", "stages.taste.sweetness: 'much' is not usable"),
        ("stages.0.method=tast", "stages.0.method: there is no method 'tast'; did you mean taste?"),
        ("stages.0.loss.eps=1", "stages.taste.loss.eps: unknown key"),
        ("grading.grader={grader: coin, head: false}", "grading.grader.head: unknown key; did you mean heads?"),
    ],
)
def test_a_mistake_in_a_plugged_in_field_is_one_line_with_a_suggestion(
    quickstart: Path, plugin: Path, tmp_path: Path, override: str, expected: str
) -> None:
    own = layer(tmp_path, "own.yaml", plugins=[str(plugin)], stages=[{"method": "taste"}])
    with pytest.raises(ConfigError) as caught:
        load_config([quickstart, own], [override])
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_a_configuration_without_the_plugin_does_not_know_its_methods(
    quickstart: Path, plugin: Path, tmp_path: Path
) -> None:
    own = layer(tmp_path, "own.yaml", plugins=[str(plugin)], stages=[{"method": "taste"}])
    load_config([quickstart, own])
    with pytest.raises(ConfigError, match="there is no method 'taste'"):
        load_config(quickstart, ["stages=[{method: taste}]"])
    assert load_config([quickstart, own]).config.stages[0].name == "taste"


def test_a_plugin_may_replace_a_built_in_method_and_two_plugins_may_not_share_a_name(
    quickstart: Path, root: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text((root / "egrc_mega/methods/dapo.py").read_text())
    own = layer(tmp_path, "own.yaml", plugins=["one.py"], stages=[{"method": "dapo"}])
    config = load_config([quickstart, own]).config
    assert type(config.stages[0]) is METHODS["dapo"].Config
    assert METHODS["dapo"].__module__.startswith("egrc_plugin_one")
    with pytest.raises(ConfigError, match="both define the method dapo; rename one"):
        load_config([quickstart, own], [f"plugins=[{tmp_path}/one.py, {tmp_path}/two.py]"])
    load_config(quickstart)
    assert METHODS["dapo"].__module__ == "egrc_mega.methods.dapo"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gone.py", None, "is no file; give the path of a Python file"),
        ("broken.py", "import nothing_of_that_name", "cannot be imported: ModuleNotFoundError"),
        ("torn.py", "def f(:", "cannot be imported: SyntaxError"),
        (
            "unnamed.py",
            "from egrc_mega.methods.method import Method\n"
            "from egrc_mega.sections.stage import StageSection\n"
            "class M(Method):\n    Config = StageSection\n    def credit(self, groups, view): ...\n",
            'its section must say method: Literal["a_name"]',
        ),
        (
            "silent.py",
            "from egrc_mega.methods.method import Method\nclass M(Method):\n    def credit(self, groups, view): ...\n",
            "silent.py defines no method, reward, grader, source",
        ),
        (
            "lazy.py",
            "from typing import Literal\n"
            "from egrc_mega.methods.method import Method\n"
            "from egrc_mega.sections.stage import StageSection\n"
            "class S(StageSection):\n    method: Literal['lazy'] = 'lazy'\n"
            "class M(Method):\n    Config = S\n",
            "a method must say what samples teach, in `credit`",
        ),
        ("no_such_module", None, "no_such_module cannot be imported"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused_by_name(
    quickstart: Path, tmp_path: Path, name: str, content: str | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    own = layer(tmp_path, "own.yaml", plugins=[name])
    with pytest.raises(ConfigError) as caught:
        load_config([quickstart, own])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_method_is_listed_with_fields_defaults_and_source() -> None:
    text = catalogue()
    for family in FAMILIES:
        for name in family.members:
            assert f"{family.kind} {name}: " in text
    assert "rollout.drop_groups: all_right_or_wrong" in text
    assert "source: DAPO, arXiv 2503.14476" in text
    methods = dict(METHODS.members.items())
    assert all(member.source for member in methods.values())


def test_every_method_builds_from_its_defaults_and_says_nothing_against_itself() -> None:
    for name, member in METHODS.members.items():
        section = member.Config.model_validate({"method": name})
        assert list(member(section).problems()) == [], name


def test_files_of_servers_are_relative_to_the_configuration_too(quickstart: Path, tmp_path: Path) -> None:
    own = layer(tmp_path, "own.yaml", rollout={"hosts_file": "hosts.txt", "announce_dir": "servers"})
    section = load_config([quickstart, own]).config.rollout
    assert (section.hosts_file, section.announce_dir) == (tmp_path / "hosts.txt", tmp_path / "servers")
