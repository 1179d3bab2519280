"""How large the page of a run is, and how soon it can be worked with: `egrc report`'s file, and `egrc watch`'s page.

A run of 200 steps with 128 rollouts each, or the one that is given, opened in headless Chromium so many times, the two
pages in turn. The time is the page's own: from the start of the navigation to its mark `egrc-interactive`, which it
sets when everything is drawn and answers. That the search answers is tried each time.

Usage: python benchmarks/report_page.py [--openings 5] [--run DIR]
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from egrc_mega.report.build import build_report
from egrc_mega.report.live import LiveRun
from egrc_mega.report.watch import WatchServer
from egrc_mega.testing.browser import Browser, find_chromium
from egrc_mega.testing.made_runs import write_large_run

MAX_BYTES, MAX_S = 5 * 2**20, 2.0


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--openings", type=int, default=5)
    parser.add_argument("--run", type=Path, help="a run's folder; its report is written anew")
    arguments = parser.parse_args()
    program = find_chromium()
    if program is None:
        sys.exit("no Chromium on this machine (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as folder, Browser(program) as browser:
        run = arguments.run or write_large_run(Path(folder))
        print(json.dumps(measured(run, browser, arguments.openings), indent=1))


def measured(run: Path, browser: Browser, openings: int) -> dict[str, Any]:
    """Build the page, serve the live one, and open both."""
    begun_s = time.process_time()
    page = build_report(run)
    built_s = time.process_time() - begun_s
    live = LiveRun(run)
    with WatchServer(live, 0) as server:
        live.reply("")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.look(1280)
        times: dict[str, list[float]] = {"report": [], "watch": []}
        for _ in range(openings):
            for name, url in (("report", page.as_uri()), ("watch", server.url)):
                times[name].append(opened_s(browser, url))
        elements = browser.evaluate("document.querySelectorAll('*').length")
        server.shutdown()
    num_bytes = page.stat().st_size
    return {
        "page_bytes": num_bytes,
        "elements": elements,
        "built_cpu_s": built_s,
        "interactive_s": times,
        "median_s": {name: median(found) for name, found in times.items()},
        "chromium": browser.call("Browser.getVersion")["product"],
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
        "load": os.getloadavg()[0],
        "holds": {
            "page_bytes": num_bytes < MAX_BYTES,
            "interactive_s": all(max(found) < MAX_S for found in times.values()),
        },
    }


def opened_s(browser: Browser, url: str) -> float:
    """Open a page and search in it; seconds from navigation to its mark."""
    browser.open(url)
    status = "document.querySelector('#responses [role=status]').textContent"
    everything = browser.evaluate(status)
    browser.evaluate(
        "{ const s = document.getElementById('search'); s.value = '0.7 '; s.dispatchEvent(new Event('input')); }"
    )
    assert browser.evaluate(status) != everything, "the search does not answer"
    mark = browser.evaluate("performance.getEntriesByName('egrc-interactive')[0].startTime")
    return float(mark) / 1000


if __name__ == "__main__":
    main()
