"""The live page as a reader meets it: it follows the run, asks nobody else, and leaves the reader's place alone."""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from egrc_mega.lock import Lock
from egrc_mega.report.live import LiveRun
from egrc_mega.report.watch import WatchServer
from egrc_mega.run_folder import LOCK
from egrc_mega.testing.browser import Browser
from egrc_mega.testing.made_runs import ATTACK, make_groups, write_config, write_evaluation, write_rollouts, write_steps

MAX_BYTES = 5 * 2**20
MAX_ELEMENTS = 8000
Serve = Callable[[Path], str]


@pytest.fixture
def serve(browser: Browser) -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def started(run: Path) -> str:
            live = LiveRun(run, texts_s=0.0, clock=lambda: 0.0)
            server = stack.enter_context(WatchServer(live, 0, poll_s=0.02))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            return server.url

        yield started
        browser.call("Page.navigate", url="about:blank")


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.evaluate(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")
    return found


def assert_quiet(browser: Browser, url: str) -> None:
    assert browser.troubles() == []
    assert {asked.partition("?")[0] for asked in browser.requests()} == {url, f"{url}state"}


def says(words: str) -> str:
    """A condition: the line of the page's state has these words."""
    return f"document.querySelector('.bar').textContent.includes({words!r})"


@pytest.mark.parametrize("dark", [False, True])
def test_whatever_a_file_holds_stays_text_on_the_live_page_too(
    hostile: Path, browser: Browser, serve: Serve, dark: bool
) -> None:
    url = serve(hostile)
    browser.look(390 if dark else 1280, 844, dark=dark)
    browser.open(url)
    browser.evaluate("document.querySelectorAll('.rollouts button')[0].click()")
    assert browser.evaluate("window.hacked") is None
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.evaluate("document.querySelectorAll('script').length") == 2
    assert texts(browser, "h1") == ["<img src=x onerror=window.hacked=3>"]
    assert any(ATTACK in text for text in texts(browser, ".pane .reply"))
    assert texts(browser, ".prompt .reply") == [f"{ATTACK} (0)"]
    assert ATTACK in texts(browser, "#configuration code")
    assert browser.evaluate("document.documentElement.scrollWidth") == (390 if dark else 1280)
    assert_quiet(browser, url)


@pytest.fixture
def growing(tmp_path: Path) -> Path:
    write_steps(tmp_path, range(1, 4), 12, ends=False)
    write_config(tmp_path, {"run": {"seed": 1}})
    write_rollouts(tmp_path, [1], make_groups(2, 2, "early"))
    write_evaluation(tmp_path, ("base", 0, 0), 1.0, 110.0, num=2)
    return tmp_path


def test_the_page_follows_the_run_and_comes_to_what_a_new_page_shows(
    growing: Path, browser: Browser, serve: Serve
) -> None:
    lock = Lock.take(growing / LOCK)
    assert lock
    url = serve(growing)
    browser.look(1280)
    browser.open(url)
    browser.wait(says("running"))
    assert "step 3 of 12" in texts(browser, ".bar")[0] and browser.evaluate("document.title").startswith("3/12")
    for step in range(4, 10):
        write_steps(growing, [step], 12, ends=False)
        browser.wait(says(f"step {step} of 12"))
    write_evaluation(growing, ("compress", 1, 6), 0.5, 40.0, num=2)
    write_rollouts(growing, [9], make_groups(2, 2, "late"))
    browser.wait("document.querySelector('#evaluation').textContent.includes('compress, step 6')")
    browser.wait("document.querySelector('.rollouts').textContent.includes('late')")
    lock.release()
    browser.wait(says("not running, and not at its end"))
    shown = "[...document.querySelectorAll('main > section')].map((s) => s.innerHTML)"
    followed = browser.evaluate(shown)
    browser.open(url)
    assert browser.evaluate(shown) == followed
    write_steps(growing, range(10, 13), 12)
    browser.wait(says("ended"))
    assert_quiet(browser, url)


def test_the_readers_place_stays_while_the_page_follows(growing: Path, browser: Browser, serve: Serve) -> None:
    browser.look(1280)
    browser.open(serve(growing))
    browser.evaluate(
        "{ const s = document.getElementById('search'); s.value = '0.'; s.dispatchEvent(new Event('input')); }"
    )
    browser.evaluate("document.querySelectorAll('.rollouts button')[1].click()")
    browser.evaluate("window.kept = [document.querySelector('.detail .pane'), document.querySelector('#training svg')]")
    browser.evaluate("document.querySelectorAll('.rollouts button')[1].focus()")
    write_steps(growing, range(4, 7), 12, ends=False)
    write_rollouts(growing, [6], make_groups(2, 2, "late"))
    browser.wait("document.querySelector('#responses [role=status]').textContent === '4 responses of 12 on this page'")
    assert browser.evaluate("document.activeElement.textContent").endswith("0.1 early")
    assert browser.evaluate("document.querySelector('.detail .pane') === window.kept[0]")
    assert texts(browser, ".rollouts button[aria-pressed=true] .line.soft") == ["0.1 early"]
    browser.evaluate("document.querySelector('#training .chart').focus()")
    browser.press("End")
    assert "step 6" in texts(browser, "#training .legend")[0]
    write_steps(growing, [7], 12, ends=False)
    browser.wait(says("step 7 of 12"))
    assert "step 6" in texts(browser, "#training .legend")[0]


def test_it_stands_still_while_paused_and_says_when_nobody_answers_or_the_folder_is_gone(
    growing: Path, browser: Browser, serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = serve(growing)
    browser.look(1280)
    browser.open(url)
    pause = "document.querySelector('.bar button')"
    browser.evaluate(f"{pause}.click()")
    browser.wait(says("paused"))
    write_steps(growing, [4], 12, ends=False)
    asked = len(browser.requests())
    browser.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert len(browser.requests()) <= asked + 1 and "step 3" in texts(browser, ".bar")[0]
    browser.evaluate(f"{pause}.click()")
    browser.wait(says("step 4 of 12"))
    shutil.move(growing, tmp_path_factory.mktemp("aside") / "run")
    browser.wait(says("no longer there"))
    assert_quiet(browser, url)
    asked = len(browser.requests())
    browser.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert len(browser.requests()) == asked
    assert "step 4 of 12" in texts(browser, ".bar")[0]


def test_two_hundred_steps_of_128_rollouts_are_a_small_live_page(large: Path, browser: Browser, serve: Serve) -> None:
    url = serve(large)
    browser.look(1280)
    browser.open(url)
    sizes = "performance.getEntriesByType('resource').map((e) => e.decodedBodySize)"
    assert 10_000 < browser.evaluate(f"Math.max(...{sizes})") < MAX_BYTES
    assert browser.evaluate("document.querySelectorAll('*').length") < MAX_ELEMENTS
    assert "of the 3,072 rollouts of 24 steps" in texts(browser, "#responses p")[0]
    browser.wait(f"{sizes}.length > 2")
    assert browser.evaluate(f"Math.min(...{sizes})") < 1000
    assert_quiet(browser, url)
