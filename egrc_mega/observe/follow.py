"""Reads `metrics.jsonl` while a run still writes it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

POLL_S = 0.2


def follow(path: Path, start: int, is_over: Callable[[], bool]) -> Iterator[tuple[dict[str, Any], int]]:
    """Every whole event from byte `start` on, with the byte behind it, as they are written; torn lines are left out.

    Args:
        is_over: nobody will write any more. What stands there by then is still read.
    """
    position, rest = start, b""
    while True:
        ends = is_over()  # asked before reading: what was written until then is read
        if path.exists():
            with path.open("rb") as file:
                file.seek(position + len(rest))
                rest += file.read()
        *lines, rest = rest.split(b"\n")
        for line in lines:
            position += len(line) + 1
            event = _parsed(line)
            if event is not None:
                yield event, position
        if ends:
            return
        if not lines:
            time.sleep(POLL_S)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None
