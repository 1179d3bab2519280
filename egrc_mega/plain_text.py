"""Text of others, made fit for a terminal: models, servers and files may not move its cursor or rewrite its lines."""

import re

_ACTS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
"""Control characters but tab and line feed, what turns the direction of writing, what is not seen, halves of pairs."""


def plain(text: str) -> str:
    """`text` with each character that acts on a terminal, hides or cannot be printed as an escape, such as `\\x1b`."""
    return _ACTS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
