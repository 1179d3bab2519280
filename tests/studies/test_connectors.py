"""Connecting words are counted whole, whatever their case, per response."""

from pathlib import Path

import numpy as np
import pytest

from egrc_mega.observe.rollout_file import StoredGroup, StoredSample
from egrc_mega.observe.rollouts import FOLDER, RolloutLog
from egrc_mega.studies.connectors import connector_curves, counter
from egrc_mega.types import VersionSpan


def sample(text: str) -> StoredSample:
    ids = np.array([1, 2], np.int32)
    return StoredSample(
        text=text,
        output_ids=ids,
        sampled=np.array([True, True]),
        logprobs=np.zeros(2, np.float32),
        entropies=None,
        grade="right",
        well_formed=True,
        truncated=False,
        reward=1.0,
        terms={},
        advantage=0.0,
        kept=True,
        versions=(VersionSpan(version="v0", start=0, end=2),),
    )


def test_words_are_whole_and_their_case_does_not_matter() -> None:
    assert counter(["Wait", "So"]).findall("Wait, so; wait. Also waiting, sober: SO") == ["Wait", "so", "wait", "SO"]


def test_a_word_with_special_characters_is_a_word_and_no_pattern() -> None:
    assert counter(["a.b"]).findall("a.b axb") == ["a.b"]


def test_the_curve_is_words_per_response_at_each_step(tmp_path: Path) -> None:
    texts = {1: ["Then a ; Wait a ; Hmm a", "Then b"], 2: ["a", "b"]}
    with RolloutLog(tmp_path / FOLDER, 2**20) as log:
        for step, both in texts.items():
            group = StoredGroup(key="k", prompt="p", answer="1", samples=tuple(map(sample, both)))
            log.write(step, "compress", [group])
    curves = connector_curves(tmp_path, [1, 2, 3], {"step": ["Then"], "check": ["Wait", "Hmm"]})
    assert curves == {"connectors_step": [1.0, 0.0, None], "connectors_check": [1.0, 0.0, None]}


def test_a_group_without_words_has_no_curve(tmp_path: Path) -> None:
    assert connector_curves(tmp_path, [1], {"none": ()}) == {}


@pytest.mark.parametrize("word", ["Wait", "Hmm", "Alternatively"])
def test_the_words_of_the_miniature_that_check_are_among_the_defaults(word: str) -> None:
    from egrc_mega.miniature.task import CHECK_WORDS, STEP_WORDS
    from egrc_mega.sections.study import CHECK_CONNECTIVES, STEP_CONNECTIVES

    assert word in CHECK_CONNECTIVES and word in CHECK_WORDS
    assert set(STEP_WORDS) <= set(STEP_CONNECTIVES)
