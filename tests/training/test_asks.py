"""What methods ask of a model folder and of the data is proved before a server starts."""

from pathlib import Path
from typing import Any

import pytest

from egrc_mega.config.check import problems
from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.errors import ConfigError, ModelError
from egrc_mega.methods.adaptthink import AdaptThinkSection
from egrc_mega.methods.dapo import DapoSection
from egrc_mega.methods.method import build_method
from egrc_mega.training.asks import prove_asks
from egrc_mega.types import Problem

PROBLEM = Problem(key="k", text="9 a + 1 = ?", answer="0")
ADAPT = "stages=[{method: adaptthink, rollout: {n: 2}, no_thinking: ' </think>', thinking: ' Then'%s}]"
PRUNE = "stages=[{method: thinkprune, caps: [40, 30]}]"


@pytest.fixture
def configure(root: Path) -> Any:
    return lambda *sets: load_config(root / "configs/quickstart.yaml", list(sets)).config


def told(config: Config) -> list[str]:
    return [str(problem) for problem in problems(config, 1, 1)]


def test_a_method_names_the_facts_that_its_section_names() -> None:
    assert build_method(AdaptThinkSection(reference_accuracy="share")).facts == {"share"}
    assert build_method(DapoSection()).facts == frozenset()


def test_a_fact_that_the_data_section_does_not_name_is_refused_with_the_configuration(configure: Any) -> None:
    [line] = [line for line in told(configure(ADAPT % "")) if "facts" in line]
    assert line.startswith("data.facts: [] lacks 'reference_accuracy', which the method of stage adaptthink needs; add")
    assert not [line for line in told(configure(ADAPT % "", "data.facts=[reference_accuracy]")) if "facts" in line]
    [line] = [line for line in told(configure(ADAPT % ", reference_accuracy: c", "data.facts=[b]")) if "facts" in line]
    assert line.startswith("data.facts: ['b'] lacks 'c'")


def test_a_forced_text_without_tokens_is_refused_before_anything_starts(configure: Any, base_model: Path) -> None:
    renderer = Renderer(load_tokenizer(base_model), "")
    prove_asks(configure(ADAPT % ""), renderer, [PROBLEM])
    with pytest.raises(ConfigError, match="forces responses to begin with '</think>'"):
        prove_asks(configure(ADAPT.replace("' </think>'", "'</think>'") % ""), renderer, [PROBLEM])


def test_a_template_that_refuses_what_a_method_asks_names_the_stage(configure: Any, base_model: Path) -> None:
    tokenizer = load_tokenizer(base_model)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + tokenizer.chat_template
    )
    renderer = Renderer(tokenizer, "")
    prove_asks(configure(), renderer, [PROBLEM])
    with pytest.raises(
        ModelError, match=r"stages\.thinkprune: what its method asks .* no system role; mend the template"
    ):
        prove_asks(configure(PRUNE), renderer, [PROBLEM])
