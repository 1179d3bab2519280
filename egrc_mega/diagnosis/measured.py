"""The table of all tokens that a model was asked about, and what it adds up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egrc_mega.diagnosis.correlation import correlation, within_bins
from egrc_mega.diagnosis.token_classes import CLASSES, CONNECTOR_CLASSES
from egrc_mega.diagnosis.token_figures import FloatArray, TokenFigures
from egrc_mega.types import BoolArray, IntArray

HIGH_ENTROPY = 0.672
"""Nats: the 80th percentile of Qwen3-8B in the 80/20 paper (methods 4), a threshold that does not move with a model."""
DRAWN_IN_FIGURE = 2000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """The O output tokens of one response, as many as were looked at."""

    text: str
    token_ends: IntArray
    """int32[O], in characters of `text`."""
    output_ids: IntArray
    sampled: BoolArray
    """bool[O]; what the method forced or an environment wrote is left out of all figures."""
    figures: TokenFigures
    classes: NDArray[np.int8]
    """[O], indices into CLASSES."""
    is_redundant: BoolArray
    is_thinking: BoolArray
    """bool[O]: up to the end of the thinking, or everywhere where it never ends."""
    verdict: str | None


class TokenTable:
    """One row for each token, some forty bytes; of a bounded number of responses."""

    def __init__(self) -> None:
        self.parts: list[Measured] = []
        self.begins: list[int] = []
        """The row at which each response begins."""
        self.num_tokens = 0

    def add(self, measured: Measured) -> None:
        """Append a response's tokens."""
        self.parts.append(measured)
        self.begins.append(self.num_tokens)
        self.num_tokens += len(measured.output_ids)

    def response_of(self, rows: IntArray) -> NDArray[np.intp]:
        """The index of the response that each row is of."""
        return np.searchsorted(self.begins, rows, side="right") - 1

    def eligible(self, limits: Sequence[int]) -> IntArray:
        """Rows of sampled tokens that stand among the first `limits` of their response, ascending."""
        rows = [
            begin + np.flatnonzero(part.sampled[:limit])
            for part, begin, limit in zip(self.parts, self.begins, limits, strict=True)
        ]
        return np.concatenate([np.zeros(0, np.int32), *rows]).astype(np.int32)

    def column(self, name: str) -> NDArray[Any]:
        """A field of `Measured` or of its figures, of all tokens."""
        values = [getattr(part.figures if name in TokenFigures.__slots__ else part, name) for part in self.parts]
        return np.concatenate(values) if values else np.zeros(0)

    def figures(self, gradients: dict[str, tuple[IntArray, FloatArray]]) -> dict[str, Any]:
        """Everything as plain values.

        Args:
            gradients: of `TokenPart.gradients`.
        """
        kept = np.flatnonzero(self.column("sampled")).astype(np.int32)
        entropy, probability = self.column("entropy"), self.column("probability")
        at_logits = {
            name: (kept, self.column(f"gradient_{name}")[kept].astype(np.float64)) for name in ("logits", "hidden")
        }
        sizes = {
            name: correlation(entropy[rows], size)
            | {"by_probability": within_bins(entropy[rows], size, probability[rows])}
            for name, (rows, size) in (at_logits | gradients).items()
        }
        classes = {name: self._of(kept[self.column("classes")[kept] == i]) for i, name in enumerate(CLASSES)}
        connectors = np.isin(self.column("classes")[kept], [CLASSES.index(name) for name in CONNECTOR_CLASSES])
        thinking = self.column("is_thinking")[kept].astype(bool)
        return {
            "num_responses": len(self.parts),
            "num_tokens": len(kept),
            "entropy": _entropy(entropy[kept]),
            "entropy_gradient": sizes,
            "parts": {"think": self._of(kept[thinking]), "answer": self._of(kept[~thinking])},
            "by_verdict": self._by_verdict(),
            "classes": {name: figures for name, figures in classes.items() if figures["num"]},
            "connectors": self._of(kept[connectors]),
            "redundant_per_response": float(self.column("is_redundant").sum()) / max(1, len(self.parts)),
            "drawn": self._drawn(kept),
        }

    def _of(self, rows: IntArray) -> dict[str, Any]:
        """Means over some tokens; None where there is none."""
        names = ("entropy", "probability", "gradient_logits")
        means = {name: float(self.column(name)[rows].mean()) if len(rows) else None for name in names}
        return {"num": len(rows)} | means

    def _by_verdict(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for verdict in dict.fromkeys(part.verdict for part in self.parts):
            own = [part.figures.entropy[part.sampled] for part in self.parts if part.verdict == verdict]
            values = np.concatenate(own)
            found[verdict or "not judged"] = {
                "num": len(values),
                "entropy": float(values.mean()) if len(values) else None,
            }
        return found

    def _drawn(self, kept: IntArray) -> list[list[float]]:
        """(entropy, gradient size at the logits, p) of some tokens, for the figure: the same ones every time."""
        rows = np.random.default_rng(0).permutation(kept)[:DRAWN_IN_FIGURE]
        columns = [self.column(name)[rows] for name in ("entropy", "gradient_logits", "probability")]
        return [[round(float(value), 4) for value in row] for row in zip(*columns, strict=True)]


def _entropy(values: FloatArray) -> dict[str, float | None]:
    """The distribution of token entropies, in nats."""
    if not len(values):
        return {"mean": None}
    total, top = float(values.sum()), -(-len(values) // 5)
    p50, p80, p95 = np.quantile(values, [0.5, 0.8, 0.95]).tolist()
    return {
        "mean": total / len(values),
        "p50": p50,
        "p80": p80,
        "p95": p95,
        "share_of_top_fifth": float(np.sort(values)[-top:].sum()) / total if total else None,
        "share_above_0.672": float((values > HIGH_ENTROPY).mean()),
        "share_below_0.01": float((values < 0.01).mean()),
    }
