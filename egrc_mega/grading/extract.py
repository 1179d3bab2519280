"""Finds the final answer in a response: the last box after the thinking that prompt or response has opened."""

import re
from dataclasses import dataclass

START_OF_THINKING, END_OF_THINKING = "<think>", "</think>"
# the look-behind keeps a long run of backslashes from being tried at each of its places
TOKEN = re.compile(
    r"(?P<box>(?<!\\)\\+(?:boxed|fbox)\s*\{)"
    r"|(?P<bare>(?<!\\)\\+(?:boxed|fbox)(?:\s+|(?=\d))(?P<sign>[-+]?\d+(?:[.,/]\d+)*|[A-J](?![A-Za-z])))"
    r"|(?P<escaped>\\.)|(?P<open>\{)|(?P<close>\})",
    re.DOTALL,
)
MAX_GAP = 60
_GAP = re.compile(
    r"(?:[\s,;$&.]|\\(?:quad|qquad|[\[\](),;: ])|\\text\s*\{\s*,?\s*(?:and|or)?\s*,?\s*\}|\b(?:and|or)\b"
    r"|(?P<same>=|\\approx|≈))*"
)


@dataclass(frozen=True, slots=True)
class _Box:
    start: int
    begin: int
    end: int
    after: int


def conclusion(text: str, prompt_thinks: bool) -> str | None:
    """What follows the thinking; None: it was opened, by the prompt or in the response, and never ended.

    Args:
        prompt_thinks: the rendered prompt ends within an open `<think>`.
    """
    _thinking, found, rest = text.rpartition(END_OF_THINKING)
    if not found and (prompt_thinks or START_OF_THINKING in text):
        return None
    return rest


def extract_answer(text: str, prompt_thinks: bool = True) -> str | None:
    """The content of the last box after the thinking, stripped; None when there is none.

    Of nested boxes the innermost is the last. Boxes side by side are one answer of several parts. Takes time linear in
    the text: a model that repeats `\\boxed{` until its cap must not hold up the run.
    """
    rest = conclusion(text, prompt_thinks)
    return None if rest is None else last_box(rest)


def last_box(text: str) -> str | None:
    """The content of the last balanced box, with that of boxes directly before it; None: there is no box."""
    boxes = _boxes(text)
    if not boxes:
        return None
    last = max(boxes, key=lambda box: box.start)
    answer = text[last.begin : last.end].strip()
    before = [box for box in sorted(boxes, key=lambda box: box.start, reverse=True) if box.after <= last.start]
    follows = last
    for box in before:
        if box.after > follows.start:
            continue
        gap = text[box.after : follows.start]
        found = _GAP.fullmatch(gap) if len(gap) <= MAX_GAP else None
        if not found:
            break
        joiner = " \\approx " if found["same"] and found["same"] != "=" else " = " if found["same"] else ", "
        answer = f"{text[box.begin : box.end].strip()}{joiner}{answer}"
        follows = box
    return answer


def _boxes(text: str) -> list[_Box]:
    boxes: list[_Box] = []
    opened: list[tuple[int, int] | None] = []
    for token in TOKEN.finditer(text):
        if token["box"]:
            opened.append((token.start(), token.end()))
        elif token["bare"]:
            boxes.append(_Box(token.start(), token.start("sign"), token.end("sign"), token.end()))
        elif token["open"]:
            opened.append(None)
        elif token["close"] and opened:
            box = opened.pop()
            if box is not None:
                boxes.append(_Box(*box, token.start(), token.end()))
    return boxes


def is_well_formed(text: str, finished: bool, prompt_thinks: bool = True) -> bool:
    """The format gate (methods 1.4g): `finished` by a stop token, a box, one `</think>` where thinking was opened."""
    ends = 1 if prompt_thinks or START_OF_THINKING in text else 0
    return finished and text.count(END_OF_THINKING) == ends and extract_answer(text, prompt_thinks) is not None
