"""docs/metrics.md has every kind of event; training/test_whole_run.py compares its fields with a run's."""

import re
from pathlib import Path

from egrc_mega.config.messages import PACKAGE
from egrc_mega.testing.documented import first_column, unexplained

WRITE = re.compile(r'events\.write\(\s*"(\w+)"(?: if \w+ else "(\w+)")?')


def test_every_kind_of_event_is_explained(root: Path) -> None:
    page = (root / "docs/metrics.md").read_text(encoding="utf-8")
    sources = "\n".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py"))
    written = {kind for kinds in WRITE.findall(sources) for kind in kinds if kind}
    assert "step" in written
    assert written == first_column(page, "## Kinds", "## Fields of a step")


def test_names_of_a_table_are_read_with_those_that_go_on_from_another() -> None:
    page = "## A\n| `x_a`, `_b` (c) | `no` |\n|---|\n| `y_*` | |\n## B\n| `z` | |"
    assert first_column(page, "## A", "## B") == {"x_a", "x_b", "y_*"}
    assert unexplained({"x_a", "y_1", "z"}, {"x_a", "y_*"}) == {"z"}
