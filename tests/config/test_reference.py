"""The reference is written from the schema, every field says what it is for, and `egrc config explain` shows it."""

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, NonNegativeFloat, PositiveInt

from egrc_mega.config.config import FAMILIES, Config
from egrc_mega.config.describe import describe
from egrc_mega.config.fields import fields_of, flat
from egrc_mega.config.load import load_config
from egrc_mega.config.messages import messages_of_fields, texts
from egrc_mega.config.reference import page
from egrc_mega.errors import ConfigError
from egrc_mega.sections.base import Section
from egrc_mega.sections.stage import StageSection
from egrc_mega.sections.study import StudySection


class Inner(Section):
    """An inner section."""

    depth: PositiveInt = 3
    """How deep."""


class Sample(Section):
    """Fields of every kind."""

    count: PositiveInt
    """How many."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Which share."""
    cost: NonNegativeFloat = 0.5
    """What it costs."""
    names: Annotated[tuple[str, ...], Field(min_length=2)] = ("a", "b")
    """Who."""
    mode: Literal["fast", "safe"] = "fast"
    """How."""
    range: tuple[int, float] | None = None
    """From where to where."""
    inner: Inner = Inner(depth=7)
    """What is inside."""
    more: dict[str, Inner] = Field(default_factory=dict)
    """Others by name."""


def test_the_reference_is_what_the_schema_says(root: Path) -> None:
    written = (root / "docs/configuration_reference.md").read_text(encoding="utf-8")
    assert page() == written, "run python -m egrc_mega.config.reference docs/configuration_reference.md"


def test_every_field_says_what_it_is_for() -> None:
    sections = [Config, StudySection, *(member.Config for family in FAMILIES for member in family.members.values())]
    silent = [f"{section.__name__}.{f.name}" for section in sections for f in flat(section) if len(f.meaning) < 6]
    assert silent == []


def test_a_type_and_its_bounds_are_said_in_words() -> None:
    found = {field.name: (field.kind, field.default) for field in fields_of(Sample)}
    assert found == {
        "count": ("integer, at least 1", "(required)"),
        "share": ("number, above 0, below 1, or null", "null"),
        "cost": ("number, at least 0", "0.5"),
        "names": ("list of at least 2 text", "[a, b]"),
        "mode": ("`fast`, `safe`", "fast"),
        "range": ("list of 2: integer; number or null", "null"),
        "inner": ("section", "{depth: 7}"),
        "more": ("mapping of names to section", "{}"),
    }


def test_fields_of_a_section_within_stand_by_dotted_names_with_the_defaults_that_hold_there() -> None:
    found = {field.name: field.shown for field in flat(Sample)}
    assert (found["inner"], found["inner.depth"], found["more.NAME.depth"]) == ("", "7", "3")


def test_a_message_stands_with_every_field_that_it_names_whoever_adds_the_section() -> None:
    wanted = {"megatron.recompute_method", "megatron.recompute_num_layers", "megatron.pipeline_model_parallel_size"}
    told = messages_of_fields(wanted | {"loss.tis_cap", "evaluation.best.set"})
    both = "megatron.recompute_method, recompute_num_layers: only for recompute_granularity full; leave them out"
    assert both in told["megatron.recompute_method"]
    assert both in told["megatron.recompute_num_layers"]
    assert (
        "megatron.pipeline_model_parallel_size: … stages, but only … layers"
        in (told["megatron.pipeline_model_parallel_size"])
    )
    assert sum("tis_cap" in message for message in told["loss.tis_cap"]) == 2
    assert told["evaluation.best.set"] == ["evaluation.best.set: there is no set …; there are …"]


def test_texts_of_a_source_are_its_strings_without_docstrings(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        '"""Doc."""\nx = 1\ndef f(y):\n    """Doc."""\n    raise E(f"a: {y} of {x}; do b")\n'
    )
    assert texts(tmp_path / "a.py") == ("a: … of …; do b",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rollout.gpus", ["type     list of integer, at least 0", "default  []", "GPU numbers", "trainer's, servers"]),
        ("rollout.server", ["type     embedded, sglang, external", "default  embedded"]),
        ("cycles", ["type     integer, at least 1, at most 100"]),
        ("evaluation.best", ["evaluation.best: Keep", "  evaluation.best.mode: max  "]),
        ("run", ["  run.dir: (required)  ", "  run.seed: 1  "]),
        ("stages.dapo", ["stages.dapo: A stage of DAPO", "  stages.dapo.rollout.drop_groups: all_right_or_wrong"]),
        ("stages.dapo.loss.agg", ["default  token-mean"]),
        ("stages.loss.agg", ["default  seq-mean-token-mean"]),
        ("stages.loss.tis_cap", ["refused  stages.….loss.tis_cap: null"]),
        ("stages", ["list of methods"]),
    ],
)
def test_a_field_and_a_section_are_explained(name: str, expected: list[str]) -> None:
    text = describe(name)
    for part in expected:
        assert part in text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rollout.gpu", "did you mean rollout.gpus?"),
        ("stages.compress.clip", "did you mean stages.compress.clip_len?"),
        ("zzz", "egrc config explain run lists a section"),
    ],
)
def test_a_field_that_is_none_is_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        describe(name)
    assert str(caught.value) == f"{name}: there is no such field; {hint}"


def test_a_plugins_fields_are_explained_too(root: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text((root / "egrc_mega/methods/dapo.py").read_text().replace('"dapo"', '"own"'))
    (tmp_path / "own.yaml").write_text("plugins: [own.py]\n")
    load_config([root / "configs/quickstart.yaml", tmp_path / "own.yaml"])
    assert "stages.own.overlong_buffer" in describe("stages.own")
    load_config(root / "configs/quickstart.yaml")
    with pytest.raises(ConfigError, match="no such field"):
        describe("stages.own")


def test_the_schema_for_editors_names_every_section_and_bound(capsys: pytest.CaptureFixture[str]) -> None:
    from egrc_mega.cli.config import schema

    schema()
    told = json.loads(capsys.readouterr().out)
    assert set(told["properties"]) == set(Config.model_fields)
    assert told["$defs"]["RolloutSection"]["properties"]["port"]["maximum"] == 65535
    assert told["additionalProperties"] is False


def test_a_stage_has_its_own_chapter_in_the_reference(root: Path) -> None:
    text = (root / "docs/configuration_reference.md").read_text(encoding="utf-8")
    for field in flat(StageSection):
        assert f"| `{field.name}` |" in text
    for family in FAMILIES:
        for name in family.members:
            assert f"\n### {name}\n" in text
