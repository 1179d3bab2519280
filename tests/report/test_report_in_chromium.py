"""The report as a reader meets it: opened in Chromium, at desk and on a phone, with pointer and keyboard."""

from pathlib import Path
from typing import Any

import pytest

from egrc_mega.report.build import build_report
from egrc_mega.testing.browser import Browser
from egrc_mega.testing.made_runs import ATTACK

MAX_BYTES = 5 * 2**20
MAX_ELEMENTS = 8000
"""A page of so many elements is drawn well within two seconds; docs/report.md says how long it took."""


def texts(browser: Browser, selector: str) -> list[str]:
    return browser.evaluate(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")


def assert_quiet(browser: Browser, page: Path) -> None:
    assert browser.troubles() == []
    assert browser.requests() == [page.as_uri()]


def test_whatever_a_file_holds_stays_text(hostile: Path, browser: Browser) -> None:
    page = build_report(hostile)
    assert ATTACK not in page.read_text()
    browser.look(1280)
    browser.open(page.as_uri())
    browser.evaluate("document.querySelectorAll('.rollouts button')[0].click()")
    assert browser.evaluate("window.hacked") is None
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.evaluate("document.querySelectorAll('script').length") == 2
    assert texts(browser, "h1") == ["<img src=x onerror=window.hacked=3>"]
    assert any(ATTACK in text for text in texts(browser, ".pane .reply"))
    assert texts(browser, ".prompt .reply") == [f"{ATTACK} (0)"]
    assert ATTACK in texts(browser, "#configuration code")
    assert any(ATTACK in text for text in texts(browser, "#evaluation th"))
    assert_quiet(browser, page)


def test_two_hundred_steps_of_128_rollouts_are_a_small_page(large: Path, browser: Browser) -> None:
    page = build_report(large)
    assert page.stat().st_size < MAX_BYTES
    browser.look(1280)
    browser.open(page.as_uri())
    assert browser.evaluate("document.querySelectorAll('*').length") < MAX_ELEMENTS
    said = browser.evaluate("document.querySelector('#responses p').textContent")
    assert "of 200 steps whose rollouts are stored" in said and "of the 3,072 rollouts of 24 steps" in said
    # it is interactive: a search answers
    browser.evaluate(
        "{ const s = document.getElementById('search'); s.value = '0.7 '; s.dispatchEvent(new Event('input')); }"
    )
    [found] = texts(browser, "#responses [role=status]")
    assert 0 < int(found.split()[0].replace(",", "")) < 3072
    assert_quiet(browser, page)


def shown(browser: Browser) -> Any:
    return browser.evaluate("document.querySelector('#responses [role=status]').textContent")


def choose(browser: Browser, name: str, value: str) -> None:
    browser.evaluate(
        f"{{ const label = [...document.querySelectorAll('#responses label')]"
        f".find((l) => l.textContent.startsWith({name!r}));"
        f" const select = label.querySelector('select'); select.value = {value!r};"
        " select.dispatchEvent(new Event('change')); }"
    )


def test_responses_are_filtered_by_verdict_reason_place_and_change(hostile: Path, browser: Browser) -> None:
    browser.open(build_report(hostile).as_uri())
    # three steps of six rollouts, two problems at two points and two temperatures
    assert shown(browser) == "26 responses of 26 on this page"
    choose(browser, "verdict", "wrong")
    assert shown(browser) == "8 responses of 26 on this page"
    choose(browser, "reason", "no box")
    assert shown(browser) == "6 responses of 26 on this page"
    choose(browser, "from", "explore")
    assert shown(browser) == "4 responses of 26 on this page"
    for name in ("verdict", "reason", "from"):
        choose(browser, name, "")
    choose(browser, "before → after", "right → wrong")
    assert shown(browser) == "4 responses of 26 on this page"
    browser.evaluate("document.querySelectorAll('.rollouts button')[0].click()")
    heads = texts(browser, ".pane .badge")
    assert heads == ["right", "wrong"]


def test_keys_move_through_charts_and_responses(hostile: Path, browser: Browser) -> None:
    browser.open(build_report(hostile).as_uri())
    browser.evaluate("document.querySelector('.chart[tabindex]').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert "step 2" in texts(browser, "#training .legend")[0]
    browser.evaluate("document.querySelector('.rollouts button').focus()")
    browser.press("ArrowDown")
    browser.press("Enter")
    pressed = (
        "[...document.querySelectorAll('.rollouts button')].map((b) => b.getAttribute('aria-pressed')).indexOf('true')"
    )
    assert browser.evaluate(pressed) == 1


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_a_phone_and_follows_light_and_dark(hostile: Path, browser: Browser, dark: bool) -> None:
    page = build_report(hostile)
    browser.look(390, 844, dark=dark)
    browser.open(page.as_uri())
    browser.evaluate("document.querySelectorAll('.rollouts button')[0].click()")
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    # whoever opens a response is taken to it, and names and values stand below each other
    assert 0 <= browser.evaluate("document.querySelector('.detail').getBoundingClientRect().top") < 200
    tables = "[...document.querySelectorAll('.names .scroll')].map((t) => t.scrollWidth - t.clientWidth)"
    assert set(browser.evaluate(tables)) == {0}
    colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(18, 20, 23)" if dark else "rgb(246, 247, 249)")
    assert browser.evaluate("parseFloat(getComputedStyle(document.querySelector('.chart text')).fontSize)") >= 10
    assert_quiet(browser, page)
