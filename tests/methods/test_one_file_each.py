"""A method is one small file and one small configuration, and nothing else of the package knows its name."""

import re
from functools import cache
from pathlib import Path

import pytest

from egrc_mega.config.load import load_config
from egrc_mega.methods.method import build_method

ONE_FILE_EACH = (
    *("grpo", "dr_grpo", "rloo", "reinforce_pp", "gspo", "cispo", "dler", "gfpo"),
    *("kimi", "o1_pruner", "dast", "smartthinker", "short_rl", "a_dlp", "shorterbetter", "hapo", "etr"),
    "length_penalty",
)


@cache
def texts(root: Path) -> dict[Path, str]:
    """Of the whole package, but for the list of what transformers calls the settings of a generation."""
    paths = set((root / "egrc_mega").rglob("*.py")) - {root / "egrc_mega/convert/known_fields.py"}
    return {path: path.read_text() for path in paths}


@pytest.mark.parametrize("name", ONE_FILE_EACH)
def test_a_method_is_one_small_file_and_one_small_configuration(root: Path, name: str) -> None:
    file, config = root / f"egrc_mega/methods/{name}.py", root / f"configs/methods/{name}.yaml"
    assert file.read_text().count("\n") <= 90
    assert config.read_text().count("\n") <= 20
    # a file of somebody else may have the same name
    named = re.compile(rf"\b{name}\b(?!\.py)")
    assert [path for path, text in texts(root).items() if path != file and named.search(text)] == []


@pytest.mark.parametrize("name", ONE_FILE_EACH)
def test_its_configuration_is_laid_over_a_recipe_and_says_nothing_against_itself(root: Path, name: str) -> None:
    files = [root / "configs/r1_distill_qwen_1p5b.yaml", root / f"configs/methods/{name}.yaml"]
    [stage] = load_config(files).config.stages
    assert stage.method == name
    assert list(build_method(stage).problems()) == []
    assert f"-c configs/methods/{name}.yaml" in files[1].read_text()
    assert type(build_method(stage)).source
