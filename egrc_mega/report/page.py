"""The page itself: data as JSON, and the few scripts that draw it, in one file whose policy lets nothing else in.

Data never becomes markup: it stands in a block that no browser runs or parses as HTML, and the scripts put it into the
page as text. The Content-Security-Policy names the one script and the one style by their hashes.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from egrc_mega.report.template import template

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("dom", "chart", "plots", "training", "evaluation", "texts", "browser", "facts", "compare", "live", "main")
"""In the order in which they stand in the page."""


def page_of(name: str, runs: Sequence[Mapping[str, Any]], comparison: Mapping[str, Any] | None = None) -> str:
    """The HTML of one run, or of several that are compared."""
    data = {"name": name, "runs": runs, "comparison": comparison}
    return _rendered(data, [(run["name"], run["summary"]) for run in runs])[0]


def live_page(name: str, poll_s: float) -> tuple[bytes, str]:
    """The HTML of a run that is followed, and its policy. It holds no data: it asks its own server every `poll_s`."""
    page, policy = _rendered({"name": name, "poll_ms": 1000 * poll_s}, [], live=True)
    return page.encode(), policy


def _rendered(
    data: Mapping[str, Any], summaries: Sequence[tuple[str, Sequence[str]]], live: bool = False
) -> tuple[str, str]:
    script, style = _script(), (FOLDER / "page.css").read_text(encoding="utf-8")
    policy = policy_of(script, style, live=live)
    page = template("page.html.j2").render(
        name=data["name"],
        policy=policy,
        style=style,
        script=script,
        data=encoded(data).decode(),
        summaries=summaries,
    )
    return page, policy


def policy_of(script: str, style: str, *, live: bool) -> str:
    """The Content-Security-Policy: this script, this style, nothing from anywhere; a live page asks its own server."""
    asks = "; connect-src 'self'" if live else ""
    return (
        f"default-src 'none'; img-src data:; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        f"base-uri 'none'; form-action 'none'{asks}"
    )


def encoded(data: Any) -> bytes:
    """JSON that may stand in a page: no `<` in it could end the block that it stands in."""
    return orjson.dumps(data).replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


def write_page(path: Path, page: str) -> None:
    """Put the page under its name once it is whole."""
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _script() -> str:
    parts = [(FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
