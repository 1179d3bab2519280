"""A blocking HTTP caller for contract tests: plain JSON in and out, nothing of our client."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def call(url: str, body: Any = None, *, method: str | None = None, timeout_s: float = 30.0) -> tuple[int, Any]:
    """(status, parsed body or text). A body of bytes is sent as it is."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            status, raw = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, raw = error.code, error.read()
    try:
        return status, json.loads(raw) if raw else None
    except json.JSONDecodeError:
        return status, raw.decode(errors="replace")


def call_all(url: str, bodies: list[Any]) -> list[tuple[int, Any]]:
    """All bodies at once, replies in order."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: call(url, body), bodies))
