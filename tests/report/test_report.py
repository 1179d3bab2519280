"""The report: one self-contained page, true to the files, inert whatever a response contains."""

import html.parser
from pathlib import Path

import pytest
import yaml

from egrc_mega.config.schema import EvaluationSection
from egrc_mega.errors import RunError
from egrc_mega.evaluation.runner import Measurement
from egrc_mega.evaluation.store import add_points
from egrc_mega.observe.events import EventLog
from egrc_mega.report.build import build_report
from egrc_mega.testing.records import make_record

ATTACK = '<script>alert(1)</script><img src="x" onerror="alert(2)">'


def measurement(stage: str, temperature: float, accuracy: float, length: float) -> Measurement:
    point = {
        "stage": stage,
        "temperature": temperature,
        "accuracy": accuracy,
        "accuracy_ci": (accuracy - 0.05, accuracy),
        "mean_length": length,
        "mean_length_ci": (length - 3, length + 3),
        "n": 256,
        "num_ungraded": 0,
        "num_truncated": 0,
        "well_formed": 1.0,
    }
    response = {
        "stage": stage,
        "temperature": temperature,
        "problem": "9 a + 1 = ?",
        "gold": "0",
        "text": f"{stage} says {ATTACK}",
        "grade": "right",
        "length": int(length),
        "truncated": False,
    }
    return Measurement(point, [response])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("run", seed=3)
        for step in range(1, 7):
            log.write("step", **make_record(step, stage="compress" if step < 4 else "explore"))
        log.write("end", step=6)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"run": {"seed": 3}, "stages": [{"name": "a", "steps": 3}]}))
    section = EvaluationSection(data="eval.jsonl")
    for stage, accuracy, length in (("base", 0.9, 110.0), ("compress", 0.95, 40.0), ("explore", 0.98, 33.0)):
        add_points(tmp_path, section, [measurement(stage, t, accuracy, length) for t in (0.6, 1.0)])
    return tmp_path


class Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def parse(page: str) -> Links:
    links = Links()
    links.feed(page)
    return links


def test_the_page_holds_headline_tables_curves_responses_and_configuration(run: Path) -> None:
    page = build_report(run).read_text()
    assert "30.0\u00a0%" in page
    assert "98.0\u00a0%" in page
    assert page.count("<table>") == 2
    assert page.count("<svg") == 7
    # matplotlib keeps a figure's words as comments: the stage boundary is marked in every curve
    assert page.count("explore →") == 7
    assert "compress says" in page
    assert "seed: 3" in page
    assert "stopped early" not in page


def test_the_page_needs_no_network_and_runs_no_script(run: Path) -> None:
    links = parse(build_report(run).read_text())
    assert "script" not in [tag for tag, _attrs in links.tags]
    for tag, attrs in links.tags:
        assert not any(name.startswith("on") for name in attrs), tag
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)


def test_a_hostile_response_is_shown_as_text(run: Path) -> None:
    page = build_report(run).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "img" not in [tag for tag, _attrs in parse(page).tags]


def test_figures_do_not_share_ids(run: Path) -> None:
    ids = [attrs["id"] for _tag, attrs in parse(build_report(run).read_text()).tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_building_twice_gives_the_same_bytes(run: Path) -> None:
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first


def test_a_run_that_has_only_begun_gets_a_page_too(tmp_path: Path) -> None:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("run", seed=1)
    page = build_report(tmp_path).read_text()
    assert "No step has finished yet" in page
    assert "still running, or stopped early" in page


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no metrics\.jsonl"):
        build_report(tmp_path)
