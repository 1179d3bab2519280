"""The methods that docs/architecture.md spells out are plugins that work as they stand."""

import re
from pathlib import Path

import pytest

from egrc_mega.config.load import load_config
from egrc_mega.methods.method import build_method
from egrc_mega.testing.samples import make_lettered, view_of


@pytest.fixture
def documented(root: Path) -> dict[str, str]:
    """The page's code, by the method that it defines."""
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs/architecture.md").read_text(), re.DOTALL)
    return {match[1]: block for block in blocks if (match := re.search(r'method: Literal\["(\w+)"\]', block))}


# right ones of 2 and 6 tokens and a wrong one of 4; without a verdict nobody counts
@pytest.mark.parametrize(
    ("name", "rewards"),
    [
        ("brief", [1 - 2 * 0.01, -4 * 0.01, 1 - 6 * 0.01, None]),
        ("alp", [1 - 2 * 0.01 * 2 / 3, -4 * 0.01 * 2 / 3, 1 - 6 * 0.01 * 2 / 3, None]),
    ],
)
def test_a_method_of_the_page_is_a_plugin_that_pays_what_it_says(
    documented: dict[str, str], root: Path, tmp_path: Path, name: str, rewards: list[float | None]
) -> None:
    (tmp_path / f"{name}.py").write_text(documented[name])
    config = tmp_path / f"{name}.yaml"
    config.write_text(f"plugins: [{name}.py]\nstages: [{{method: {name}, price: 0.01}}]\n")
    [stage] = load_config([root / "configs/quickstart.yaml", config]).config.stages
    method = build_method(stage)
    [row] = method.credit([make_lettered("R2 W4 R6 U9")], view_of(method))
    assert [credit.reward for credit in row] == [None if r is None else pytest.approx(r, abs=1e-12) for r in rewards]
    assert list(method.problems()) == []


def test_the_page_spells_out_no_other_method(documented: dict[str, str]) -> None:
    assert sorted(documented) == ["alp", "brief"]
