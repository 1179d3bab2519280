"""The report: one self-contained page, true to the files, inert whatever a response contains."""

import html.parser
import re
from pathlib import Path

import pytest
import yaml

from egrc_mega.errors import RunError
from egrc_mega.evaluation.records import Response
from egrc_mega.evaluation.store import add_point
from egrc_mega.observe.events import EventLog
from egrc_mega.report.build import build_report, missing_parts
from egrc_mega.testing.points import make_point, make_protocol, make_subject
from egrc_mega.testing.records import make_record

ATTACK = '<script>alert(1)</script><img src="x" onerror="alert(2)">'


def add(run: Path, place: tuple[str, int, int | None], accuracy: float, length: float) -> None:
    """A point at both temperatures, with a response each."""
    subject = make_subject(*place)
    for temperature in (0.6, 1.0):
        protocol = make_protocol(temperature=temperature)
        response = Response(
            weights=subject.weights,
            protocol=protocol.key,
            problem="9 a + 1 = ?",
            gold="0",
            text=f"{subject.label} says {ATTACK}",
            grade="right",
            length=int(length),
            truncated=False,
        )
        add_point(run, protocol, make_point(subject, protocol, accuracy, length), [response])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        log.write("run", seed=3)
        for step in range(1, 7):
            log.write("step", **make_record(step, stage="compress" if step < 4 else "explore"))
        log.write("end", step=6)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"run": {"seed": 3}, "stages": [{"name": "a", "steps": 3}]}))
    add(tmp_path, ("base", 0, 0), 0.9, 110.0)
    add(tmp_path, ("compress", 1, 3), 0.95, 40.0)
    add(tmp_path, ("explore", 2, 6), 0.98, 33.0)
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
    headline = page[page.index('class="headline"') :].partition("</p>")[0]
    assert headline.count(" ungraded") == 1 and " of " in headline.partition("(")[2]
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


def test_a_folder_with_neither_steps_nor_measurements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no metrics\.jsonl and no evaluation\.json"):
        build_report(tmp_path)


def test_rows_say_which_weights_they_are_of_and_an_extended_run_ends_with_the_newer_ones(run: Path) -> None:
    # in whatever order they were measured
    add(run, ("compress", 3, 12), 0.97, 11.0)
    add(run, ("explore", 2, 9), 0.99, 22.0)
    page = build_report(run).read_text()
    names = re.findall(r"<tr><td>([^<]+)<br><small>([^<]+)</small>", page)
    rows = [("base", 0, 0), ("compress", 1, 3), ("explore", 2, 6), ("explore", 2, 9), ("compress", 3, 12)]
    shown = [f"{label}, step {step}" if step else label for label, _ordinal, step in rows]
    assert [name for name, _weights in names] == shown * 2
    assert [weights for _name, weights in names] == [f"{la}-{o}-{s}"[:12] for la, o, s in rows] * 2
    # the headline is about the last one: 11 of 110 tokens
    assert "10.0\u00a0%" in page


def test_a_stage_that_follows_one_of_its_own_name_is_marked_too(tmp_path: Path) -> None:
    with EventLog(tmp_path / "metrics.jsonl") as log:
        for step in range(1, 7):
            log.write("step", **make_record(step, stage="compress", step_in_stage=(step - 1) % 3 + 1))
    assert build_report(tmp_path).read_text().count("compress →") == 7


def test_stages_of_a_configuration_are_called_by_label_then_method(run: Path) -> None:
    stages = [{"label": "first", "method": "dapo", "steps": 3}, {"label": None, "method": "dapo", "steps": 4}]
    (run / "config.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert "stages first (3 steps), dapo (4 steps)" in build_report(run).read_text()


def test_a_folder_of_evaluations_alone_gets_a_page_that_says_what_it_lacks(tmp_path: Path) -> None:
    add(tmp_path, ("models/a", 0, None), 0.9, 110.0)
    add(tmp_path, ("models/b", 0, None), 0.8, 90.0)
    page = build_report(tmp_path).read_text()
    assert "Not in this folder: metrics.jsonl (no curves), config.yaml (no configuration)." in page
    assert missing_parts(tmp_path) == ["metrics.jsonl (no curves)", "config.yaml (no configuration)"]
    assert page.count("models/b<br>") == 2
    # two models are no before and after
    assert "Responses shrank" not in page
    for absent in ("stopped early", "No step has finished", "<h2>Configuration"):
        assert absent not in page
