"""Finds the final answer in a response: after the last `</think>`, the last balanced `\\boxed{...}`."""

import re

END_OF_THINKING = "</think>"
# the look-behind keeps a long run of backslashes from being tried at each of its places
TOKEN = re.compile(r"(?P<box>(?<!\\)\\+boxed\{)|(?P<escaped>\\.)|(?P<open>\{)|(?P<close>\})", re.DOTALL)


def extract_answer(text: str) -> str | None:
    """The content of the last balanced box after the last `</think>`, stripped; None when there is none.

    Of nested boxes the innermost is the last. Takes time linear in the text: a model that repeats `\\boxed{` until its
    cap must not hold up the run.
    """
    _thinking, found, conclusion = text.rpartition(END_OF_THINKING)
    if not found:
        return None
    best: tuple[int, int] | None = None
    open_braces: list[int | None] = []
    for token in TOKEN.finditer(conclusion):
        if token.lastgroup in ("box", "open"):
            open_braces.append(token.end() if token.lastgroup == "box" else None)
        elif token.lastgroup == "close" and open_braces:
            start = open_braces.pop()
            if start is not None and (best is None or start > best[0]):
                best = (start, token.start())
    return None if best is None else conclusion[slice(*best)].strip()


def is_well_formed(text: str, finished: bool) -> bool:
    """The format gate (methods 1.4g): `finished` by a stop token, exactly one `</think>`, a balanced box after it."""
    return finished and text.count(END_OF_THINKING) == 1 and extract_answer(text) is not None
