"""The plot of accuracy against length."""

from xml.etree import ElementTree

from egrc_mega.report.pareto import ParetoPoint, draw_pareto, pareto_front


def names(points: list[ParetoPoint]) -> list[str]:
    return [point.name for point in points]


def test_the_front_holds_whoever_nobody_beats_in_both() -> None:
    points = [
        ParetoPoint("long and right", 100, 0.95),
        ParetoPoint("beaten in both", 60, 0.5),
        ParetoPoint("short and right", 30, 0.9),
        ParetoPoint("as short, less right", 30, 0.8),
        ParetoPoint("shortest", 20, 0.3),
    ]
    assert names(pareto_front(points)) == ["shortest", "short and right", "long and right"]


def test_equal_points_beat_nobody_so_both_stay_on_the_front() -> None:
    twins = [ParetoPoint("a", 30, 0.9), ParetoPoint("b", 30, 0.9)]
    assert names(pareto_front(twins)) == ["a", "b"]


def test_as_accurate_and_longer_is_beaten() -> None:
    assert names(pareto_front([ParetoPoint("a", 31, 0.9), ParetoPoint("b", 30, 0.9)])) == ["b"]


def test_the_plot_is_one_well_formed_element_with_every_point_named() -> None:
    points = [
        ParetoPoint("base", 105, 0.93, (100, 110), (0.9, 0.95), is_base=True),
        ParetoPoint("egrc", 31, 0.99, (30, 32), (0.98, 1.0)),
    ]
    svg = draw_pareto(points, "Accuracy against length")
    element = ElementTree.fromstring(svg)
    assert element.tag.endswith("svg") and element.attrib["aria-label"] == "Accuracy against length"
    # texts are drawn as paths; the comment beside each says what it spells
    assert "<!-- base -->" in svg and "<!-- egrc -->" in svg


def test_a_name_is_text_and_neither_markup_nor_mathematics() -> None:
    svg = draw_pareto([ParetoPoint("--><script>$\\frac$", 30, 0.9)], 'a "title" <b>')
    ElementTree.fromstring(svg)
    assert "<script" not in svg and "<b>" not in svg


def test_ids_of_two_plots_of_a_page_differ() -> None:
    point = [ParetoPoint("a", 30, 0.9)]
    first, second = (
        {e.attrib["id"] for e in ElementTree.fromstring(draw_pareto(point, t)).iter() if "id" in e.attrib}
        for t in ("at T 0.6", "at T 1")
    )
    assert first and not first & second


def test_forty_points_are_drawn_and_no_two_names_cover_each_other() -> None:
    points = [ParetoPoint(f"method_{i}", 30 + i % 7, 0.9 + 0.002 * (i % 11)) for i in range(40)]
    svg = draw_pareto(points, "crowd")
    ElementTree.fromstring(svg)
    assert 5 < svg.count("<!-- method_") <= 40
