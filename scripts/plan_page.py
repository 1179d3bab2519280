"""Writes what docs/plan.md shows of the time model: the table of published steps, and the figure of scaling.

Usage: python scripts/plan_page.py          (tests/plan/test_published.py and test_scaling.py fail while it is due)
"""

from pathlib import Path

from egrc_mega.launch.plan import scaling_of_the_recipe
from egrc_mega.plan.rows_page import rows_page

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- written by scripts/plan_page.py: begin -->", "<!-- end -->"


def main() -> None:
    """Write both."""
    file = ROOT / "docs/plan.md"
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    file.write_text(f"{before}{BEGIN}\n\n{rows_page()}\n{END}{after}", encoding="utf-8")
    (ROOT / "docs/figures/plan_scaling.svg").write_text(scaling_of_the_recipe(ROOT)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
