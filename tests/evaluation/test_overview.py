"""The table at the end of a run: base and stages, what is ungraded, and the share of the base's length."""

from dataclasses import replace
from pathlib import Path

from egrc_mega.evaluation.overview import overview
from egrc_mega.evaluation.store import add_point, read_table
from egrc_mega.testing.points import make_point, make_protocol, make_subject


def test_the_base_and_each_stage_have_a_row_in_80_characters_and_points_within_stages_none(tmp_path: Path) -> None:
    own = make_protocol(temperature=1.0)
    for protocol, name in ((make_protocol(), ""), (own, "aime24")):
        for place, accuracy, length in ((("base", 0, 0), 0.9, 100.0), (("compress", 1, 50), 0.8, 25.0)):
            point = make_point(make_subject(*place), protocol, accuracy, length)
            add_point(tmp_path, protocol, replace(point, set=name, num_ungraded=3))
        within = make_point(make_subject("compress", 1, 20), protocol, 0.1, 1.0)
        add_point(tmp_path, protocol, replace(within, within=True, set=name))
    lines = list(overview(read_table(tmp_path)))
    assert lines[:3] == [
        "eval at T 0.6                    acc  ungraded   length  share  L-Acc",
        "  base                         90.0%     3/256    100.0      -      -",
        "  compress, step 50            80.0%     3/256     25.0    25%   69.3",
    ]
    assert lines[3].startswith("aime24 at T 1 ")
    assert len(lines) == 6 and max(map(len, lines)) <= 80


def test_what_was_not_graded_has_no_accuracy(tmp_path: Path) -> None:
    add_point(tmp_path, make_protocol(), make_point(make_subject(), make_protocol(), None))
    assert list(overview(read_table(tmp_path)))[1].split()[1] == "-"
