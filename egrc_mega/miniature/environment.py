"""The noisy task: an environment that spoils first attempts, so that re-checking is worth its tokens (the conflict).

After the `=` of a segment whose operations have not all been worked on before, it writes a wrong result with some
probability (methods 5.2, Run N). The policy cannot learn the error away, because those tokens are not its own; it can
only notice and check again.
"""

import random
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from egrc_mega.errors import ConfigError
from egrc_mega.miniature.task import MARKS, apply


class NoisyArithmetic:
    """Writes a wrong digit after `=`; a pure function of the text so far and the generator."""

    stop_token_ids: tuple[int, ...]
    """The id of `=`: generation stops there."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, probability: float) -> None:
        """`probability` of writing, at each first attempt.

        Raises:
            ConfigError: not the miniature's tokenizer.
        """
        vocabulary = tokenizer.get_vocab()
        missing = [word for word in ("=", *"0123456789") if f" {word}" not in vocabulary]
        if missing:
            raise ConfigError(
                f"rollout.environment.name = noisy_arithmetic: the tokenizer has no token {' ' + missing[0]!r}; "
                f"only the miniature model (egrc miniature) can use this environment"
            )
        self.probability = probability
        self.stop_token_ids = (vocabulary[" ="],)
        self._digit_ids = tuple(vocabulary[f" {digit}"] for digit in range(10))
        self._words = {i: token.strip() for token, i in vocabulary.items()}

    def write(
        self, prompt_ids: Sequence[int] | np.ndarray, output_ids: Sequence[int] | np.ndarray, rng: random.Random
    ) -> list[int]:
        """Token ids to append: one wrong digit, or nothing."""
        words = [self._words.get(i, "") for i in np.asarray(output_ids).tolist()]
        if not words or words[-1] != "=":
            return []
        *earlier, current = _segments(words)
        seen = {word for segment in earlier for word in segment if word in MARKS}
        marks = {word for word in current if word in MARKS}
        value = _value(current)
        if value is None or marks <= seen or rng.random() >= self.probability:
            return []
        return [self._digit_ids[(value + rng.randint(1, 9)) % 10]]


def _segments(words: list[str]) -> list[list[str]]:
    """The expressions before each `=`: what stands between it and the `;`, or the `=` and its result, before."""
    segments: list[list[str]] = []
    current: list[str] = []
    for previous, word in zip(["", *words], words, strict=False):
        if word == "=":
            segments.append(current)
        if word in ("=", ";"):
            current = []
        elif previous != "=" or not word.isdigit():
            current.append(word)
    return segments


def _value(segment: list[str]) -> int | None:
    """Value of `b 2 + 1 c - 2` as written, modulo 10; None when it is not digits with operators between them.

    Marks and words may stand anywhere, and a `;` may be missing: were the form strict, a policy could learn to dodge
    the noise by misplacing one.
    """
    terms = [word for word in segment if word in ("+", "-", "*") or word.isdigit()]
    digits, operators = terms[::2], terms[1::2]
    is_alternating = all(map(str.isdigit, digits)) and not any(map(str.isdigit, operators))
    if not operators or len(digits) != len(operators) + 1 or not is_alternating or "*" in operators:
        return None
    value = int(digits[0])
    for operator, digit in zip(operators, digits[1:], strict=True):
        value = apply(value, operator, int(digit))
    return value
