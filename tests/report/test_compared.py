"""Runs beside each other: one page, paired where both have kept responses, with what differs in how they ran."""

from pathlib import Path

import pytest

from egrc_mega.errors import ConfigError
from egrc_mega.report.compared import build_comparison, differing, distinct
from egrc_mega.testing.browser import Browser
from egrc_mega.testing.made_runs import write_config, write_evaluation, write_steps

ATTACK = "<script>window.hacked=1</script>"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    found = []
    for name, accuracy, length, num in (("one", 0.5, 40.0, 8), ("two", 1.0, 20.0, 6)):
        run = tmp_path / name
        run.mkdir()
        write_steps(run, range(1, 7), 6)
        write_config(run, {"run": {"seed": name}, "model": {"path": ATTACK}})
        write_evaluation(run, ("base", 0, 0), 0.75, 80.0, num=8)
        write_evaluation(run, ("explore", 1, 6), accuracy, length, num=num)
        found.append(run)
    return found


def test_a_comparison_overlays_curves_pairs_evaluations_and_lists_differences(
    runs: list[Path], browser: Browser
) -> None:
    page = build_comparison(runs)
    assert page == runs[0].parent / "comparison.html"
    browser.look(1280)
    browser.open(page.as_uri())
    texts = "[...document.querySelectorAll('{}')].map((e) => e.textContent)"
    assert browser.evaluate(texts.format("#runs h3")) == ["one", "two"]
    assert browser.evaluate("document.querySelectorAll('#training .card')[0].querySelectorAll('path.line').length") == 2
    rows = browser.evaluate(texts.format("#evaluation tbody tr"))
    # of the six problems that both have kept four are right in one, all in the other; lengths 40 to 45 and 20 to 25
    pair = next(row for row in rows if row.startswith("one \N{MINUS SIGN} two"))
    assert "-33.3" in pair and "0 / 2" in pair and "188.9" in pair and "6 of 256 problems" in pair
    assert browser.evaluate(texts.format("#configuration tbody tr")) == ["run.seedonetwo"]
    assert browser.evaluate("document.querySelector('#environment p').textContent").startswith(
        "The environments do not"
    )
    assert browser.evaluate("window.hacked") is None
    assert browser.troubles() == [] and browser.requests() == [page.as_uri()]


def test_a_run_beside_itself_is_refused(runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match="is given twice"):
        build_comparison([runs[0], runs[0].parent / "two" / ".." / "one"])


def test_runs_of_one_name_are_told_apart_by_their_parents() -> None:
    assert distinct([Path("/a/x/run"), Path("/a/y/run")]) == ["x/run", "y/run"]
    assert distinct([Path("/a/one"), Path("/b/two")]) == ["one", "two"]


def test_only_values_that_differ_are_listed_and_a_missing_one_is_none() -> None:
    assert differing([[["a", "1"], ["b", "2"]], [["a", "1"], ["c", "3"]]]) == [["b", "2", None], ["c", None, "3"]]
