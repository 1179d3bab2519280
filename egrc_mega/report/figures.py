"""How figures that are drawn by matplotlib look."""

from typing import Any

COLOURS = ("#2f6fde", "#d1662c", "#2a9d6f", "#9257c9")
GREY = "#8a8f98"
STYLE: Any = {"svg.fonttype": "path", "svg.hashsalt": "egrc_mega", "font.size": 9, "axes.edgecolor": GREY}
