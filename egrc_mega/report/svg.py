"""Turns a figure into an `<svg>` element that can stand in a page among others."""

import html
import io
import re

from matplotlib import pyplot
from matplotlib.figure import Figure


def inline_svg(figure: Figure, name: str) -> str:
    """The figure's `<svg>` element alone, scalable; the figure is closed.

    Args:
        name: what screen readers say; also put before its ids, which no other figure of the page may have. Names of one
            page must differ in their letters and digits.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    svg = buffer.getvalue()
    body = svg[svg.index("<svg") :]
    label = f'role="img" aria-label="{html.escape(name)}"'
    body = re.sub(r'width="[^"]+pt" height="[^"]+pt"', lambda _found: label, body, count=1)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    body = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', body)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", body)
