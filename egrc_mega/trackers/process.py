"""`python -m egrc_mega.trackers.process NAME RUN`: feeds one tracker from a run's `metrics.jsonl` until stdin ends.

A tracker lives in a process of its own, so that nothing it does (waiting for a network, a bug, its end) touches the
run. How far it has come stands in `RUN/trackers/NAME.json`: a resumed run sends nothing twice.
"""

import json
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, cast

from egrc_mega import yaml_text
from egrc_mega.observe.follow import follow
from egrc_mega.observe.streams import show_text_plain
from egrc_mega.run_folder import require_no_links_out
from egrc_mega.sections.run import ObserveSection, TrackerName
from egrc_mega.trackers.tracker import open_tracker
from egrc_mega.trackers.values import values_of

FOLDER = "trackers"


@dataclass(slots=True)
class Progress:
    """How far a tracker has come."""

    position: int = 0
    """Byte of `metrics.jsonl` up to which everything is sent."""
    newest: int = 0
    """The highest step that was sent: after a resume a step comes again, and trackers want steps that do not fall."""

    @classmethod
    def read(cls, place: Path) -> Self:
        """From the beginning, where the file is missing or torn."""
        try:
            fields = json.loads(place.read_text())
            return cls(int(fields["position"]), int(fields["newest"]))
        except (OSError, ValueError, LookupError, TypeError):
            return cls()

    def write(self, place: Path) -> None:
        """Keep it, whole or not at all."""
        partial = place.with_suffix(".tmp")
        partial.write_text(json.dumps(asdict(self)))
        partial.replace(place)


def feed(name: TrackerName, run: Path, over: threading.Event) -> int:
    """Send everything that stands in `metrics.jsonl` and has not been sent; returns the number of events sent.

    Raises:
        RunError: a file in the run's folder is a link that leads out.
    """
    require_no_links_out(run)
    config = yaml_text.read((run / "config.yaml").read_text()) or {}
    project = config.get("observe", {}).get("project", ObserveSection().project)
    place = run / FOLDER / f"{name}.json"
    place.parent.mkdir(exist_ok=True)
    progress = Progress.read(place)
    tracker = open_tracker(name, run / FOLDER / name, project, run.resolve().name, config)
    sent = 0
    try:
        for event, position in follow(run / "metrics.jsonl", progress.position, over.is_set):
            if found := values_of(event):
                progress.newest = max(progress.newest, found[0])
                tracker.log(progress.newest, found[1])
                sent += 1
            progress.position = position
            progress.write(place)
    finally:
        tracker.close()
    return sent


def main() -> None:
    """Feed a tracker for as long as stdin is open, and then what is left."""
    show_text_plain()
    # the run decides when it ends, not whoever presses a key
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    over = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(0, 4096):
            pass
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    feed(cast(TrackerName, sys.argv[1]), Path(sys.argv[2]), over)


if __name__ == "__main__":
    main()
