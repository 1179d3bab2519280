"""The noisy task: an environment that spoils first attempts, so that re-checking is worth its tokens (the conflict).

After the `=` of a segment whose operations have not been worked on before, it writes a wrong result with some
probability. The policy cannot learn the error away, because those tokens are not its own; it can only check again.
"""

import random

from transformers import PreTrainedTokenizerBase

from egrc_mega.miniature.task import MARKS, apply


class NoisyArithmetic:
    """Writes a wrong digit after `=`; a pure function of the text so far and the generator."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, probability: float) -> None:
        self.tokenizer, self.probability = tokenizer, probability
        self.stop_token_ids: tuple[int, ...] = tuple(tokenizer.encode(" =", add_special_tokens=False))

    def write(self, prompt_ids: tuple[int, ...], output_ids: tuple[int, ...], rng: random.Random) -> list[int]:
        """Token ids to append: one wrong digit, or nothing."""
        words = [token.strip() for token in self.tokenizer.convert_ids_to_tokens(list(output_ids))]
        segments = _segments(words)
        current = segments[-1]
        seen = {token for segment in segments[:-1] for token in segment if token in MARKS}
        marks = {token for token in current if token in MARKS}
        value = _evaluate(current)
        if value is None or not marks or marks <= seen or rng.random() >= self.probability:
            return []
        wrong = (value + rng.randint(1, 9)) % 10
        return list(self.tokenizer.encode(f" {wrong}", add_special_tokens=False))


def _segments(tokens: list[str]) -> list[list[str]]:
    """The expressions before each `=`: what stands between it and the `;` before."""
    segments: list[list[str]] = []
    current: list[str] = []
    for token in tokens:
        if token == "=":
            segments.append(current)
        if token in ("=", ";"):
            current = []
        else:
            current.append(token)
    return segments


def _evaluate(segment: list[str]) -> int | None:
    """Value of `[word] b 2 + 1 [c - 2]` as written, None when it is not of that form."""
    tokens = [token for token in segment if token.isdigit() or token in ("+", "-")]
    if len(tokens) < 3 or len(tokens) % 2 == 0 or not tokens[0].isdigit():
        return None
    value = int(tokens[0])
    for operator, operand in zip(tokens[1::2], tokens[2::2], strict=True):
        if operator not in ("+", "-") or not operand.isdigit():
            return None
        value = apply(value, operator, int(operand))
    return value
