"""The tokens of stored responses as pieces of their texts, by the tokenizer of the run, within a bounded effort."""

from pathlib import Path

from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import has_tokenizer, load_tokenizer
from egrc_mega.errors import EgrcError
from egrc_mega.report.settings import config_of
from egrc_mega.types import IntArray

MAX_HARD_TOKENS = 20_000
"""Tokens whose ends are searched for by decoding, where the pieces do not simply join up to the text."""


class Pieces:
    """Cuts texts into the tokens that they were sampled as."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._known: dict[int, str] = {}
        self._left = MAX_HARD_TOKENS

    def cut(self, text: str, output_ids: IntArray) -> list[int] | None:
        """How many characters of the text each token has; None: it is not this tokenizer's, or too much was asked."""
        pieces = [self._piece(int(token)) for token in output_ids]
        if "".join(pieces) == text:
            return [len(piece) for piece in pieces]
        self._left -= len(output_ids)
        if self._left < 0 or self.renderer.decode(output_ids) != text:
            return None
        ends = self.renderer.token_ends(output_ids).tolist()
        return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

    def _piece(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = str(self.renderer.tokenizer.decode([token]))
        return self._known[token]


def renderer_of(run_dir: Path) -> Renderer | None:
    """By the run's export, the weights it serves, or the model that it began with; None: no tokenizer is there."""
    model = str((config_of(run_dir).get("model") or {}).get("path") or "")
    folders = [run_dir / "export", *sorted((run_dir / "weights").glob("*")), *([Path(model)] if model else [])]
    for folder in folders:
        if has_tokenizer(folder):
            try:
                return Renderer(load_tokenizer(folder), "")
            except EgrcError:
                continue
    return None
