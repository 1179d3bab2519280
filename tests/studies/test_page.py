"""The page is one file without network, says what is open and why, and shows text as text."""

import re
from collections.abc import Callable
from pathlib import Path

import orjson

from egrc_mega.studies.grid import read_study
from egrc_mega.studies.page import write_findings
from egrc_mega.studies.records import Result, take_folder, write_result
from egrc_mega.testing.results import point, result

WriteStudy = Callable[..., Path]
EVIL = '<script>alert("x")</script> a|b'


def ended(setting: str, seed: int, accuracy: float) -> Result:
    """A result with both temperatures."""
    points = [point("base", 0, 0.5, 100.0, t) for t in (0.6, 1.0)]
    return result(
        setting, seed, accuracy, 30.0, points=[*points, *(point("end", 1, accuracy, 30.0, t) for t in (0.6, 1.0))]
    )


def test_the_page_holds_tables_plots_claims_and_open_cells_in_one_file(write_study: WriteStudy) -> None:
    claim = {"says": EVIL, "of": {"setting": "long"}, "at_least": 0.5}
    file = write_study(seeds=[1, 2], title=EVIL, about=[EVIL], findings=[EVIL], claims=[claim])
    study = read_study(file)
    for cell in study.cells[:3]:
        take_folder(cell)
    write_result(study.cells[0].folder, ended("long", 1, 0.9))
    write_result(study.cells[1].folder, Result(setting="short", seed=1, failure=EVIL))
    (study.cells[2].folder / "run").mkdir()
    text = write_findings(study)
    folder = study.section.dir
    page = (folder / "small.html").read_text()
    assert "1 of 4 cells ended" in page and "1 failed" in page
    assert page.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; a|b</p>") == 2  # about and findings
    assert "stopped before its end" in page and "not run yet" in page
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!#)', page) and "@import" not in page
    assert page.count("<svg") == 3  # two temperatures and the curves
    assert "holds" in page and "90.0 % (1 seed)" in page
    assert "failed: " in text and r"a\|b" in text and "<script" not in text
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert names == [
        "small.html",
        "small.json",
        "small.md",
        "small_curves.svg",
        "small_pareto_t0.6.svg",
        "small_pareto_t1.svg",
    ]
    rows = orjson.loads((folder / "small.json").read_bytes())["rows"]
    assert rows[1]["figures"]["accuracy_t1"]["estimate"]["mean"] == 0.9


def test_the_markdown_names_its_plots_and_the_command_that_made_it(write_study: WriteStudy) -> None:
    study = read_study(write_study())
    for cell in study.cells:
        take_folder(cell)
        write_result(cell.folder, ended(cell.setting, cell.seed, 0.8))
    write_findings(study)
    text = (study.section.dir / "small.md").read_text()
    assert f"`egrc study {study.file}`: 2 of 2 cells ended" in text and "2 x86_64 cores" in text
    for name in re.findall(r"\]\((.+?)\)", text):
        assert (study.section.dir / name).is_file()


def test_a_study_of_which_nothing_has_run_has_a_page_too(write_study: WriteStudy) -> None:
    study = read_study(write_study())
    text = write_findings(study)
    assert text.count("not run yet") == 2
    assert "0 of 2 cells ended" in (study.section.dir / "small.html").read_text()


def test_every_study_of_the_repository_has_its_page_and_the_page_its_plots(root: Path) -> None:
    for file in sorted((root / "configs/studies").glob("*.yaml")):
        page = root / "docs/studies" / f"{file.stem}.md"
        text = page.read_text()
        assert f"`egrc study configs/studies/{file.name}`" in text
        plots = re.findall(r"!\[.*?\]\((.+?)\)", text)
        assert plots or re.search(r": 0 of \d+ cells ended", text)
        assert all((page.parent / plot).is_file() for plot in plots)
