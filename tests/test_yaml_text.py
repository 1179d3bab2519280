"""YAML of others: small files that stand for more values than any memory holds are refused, wherever YAML is read."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from egrc_mega import yaml_text
from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError, RunError
from egrc_mega.launch.publish import _licence_of
from egrc_mega.report.settings import config_of, settings_of


def bomb(levels: int = 40) -> str:
    """Few lines, in which each mapping has the one before twice."""
    names = [f"x{number}" for number in range(levels)]
    lines = [f"{names[0]}: &{names[0]} {{a: 1}}"]
    lines += [f"{own}: &{own} {{l: *{below}, r: *{below}}}" for below, own in pairwise(names)]
    return "\n".join(lines) + "\n"


HOSTILE = {"a bomb": bomb(), "what holds itself": "a: &a [*a]\n", "what is nested too deeply": "a: " + "[" * 1000}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_would_take_all_time_or_memory_is_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(HOSTILE[kind])
    with pytest.raises(yaml_text.UNREADABLE):
        yaml_text.read(HOSTILE[kind])
    with pytest.raises(ConfigError, match=r"config\.yaml is not YAML: ") as refused:
        load_config([tmp_path / "config.yaml"])
    assert len(str(refused.value)) < 1000
    with pytest.raises(ConfigError, match="the value is not YAML"):
        load_config([], [f"data.train={HOSTILE[kind]}"])
    for read in (config_of, settings_of):
        with pytest.raises(RunError, match="cannot be read"):
            read(tmp_path)


def test_the_card_of_a_model_is_no_more_believed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"license": "mit"}')
    for text in HOSTILE.values():
        (tmp_path / "README.md").write_text(f"---\n{text}---\n")
        assert _licence_of(tmp_path) == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert _licence_of(tmp_path) == "apache-2.0"


def test_aliases_that_people_write_are_read_as_ever() -> None:
    text = "a: &a {x: [1, 2.5, null, off]}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n"
    assert yaml_text.read(text) == yaml.safe_load(text)
    assert yaml_text.read("") is None


def test_nobody_else_reads_yaml(root: Path) -> None:
    readers = set()
    for file in (root / "egrc_mega").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            is_load = isinstance(node, ast.Attribute) and node.attr in ("load", "safe_load", "load_all", "full_load")
            if is_load and isinstance(node.value, ast.Name) and node.value.id == "yaml":
                readers.add(file.relative_to(root / "egrc_mega").as_posix())
    assert {name for name in readers if not name.startswith("testing/")} == set()
