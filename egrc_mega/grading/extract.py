"""Finds the final answer in a response: after the last `</think>`, the last balanced `\\boxed{...}`."""

END_OF_THINKING = "</think>"
BOX = "\\boxed{"


def extract_answer(text: str) -> str | None:
    """The content of the last balanced box after the last `</think>`, stripped; None when there is none."""
    _thinking, found, conclusion = text.rpartition(END_OF_THINKING)
    if not found:
        return None
    start = len(conclusion)
    while (start := conclusion.rfind(BOX, 0, start)) != -1:
        content = _balanced(conclusion, start + len(BOX))
        if content is not None:
            return content.strip()
    return None


def is_well_formed(text: str, is_finished: bool) -> bool:
    """The format gate: ended by a stop token, exactly one `</think>`, a balanced box after it."""
    return is_finished and text.count(END_OF_THINKING) == 1 and extract_answer(text) is not None


def _balanced(text: str, start: int) -> str | None:
    """Text from `start` to the brace that closes the one before it; escaped braces do not count."""
    depth, i = 1, start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i]
        i += 1
    return None
