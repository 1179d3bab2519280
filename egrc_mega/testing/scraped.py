"""A strict reader of Prometheus' text format, for tests: whatever the format does not allow is an error."""

import re
import urllib.request

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
HEAD = re.compile(rf"# (HELP|TYPE) ({NAME}) (.+)")
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (NaN|[+-]Inf|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """Every sample by its name and labels.

    Raises:
        AssertionError: the text is no exposition of format 0.0.4 whose families are whole, or names a sample twice.
    """
    assert text.endswith("\n")
    found: Samples = {}
    heads: dict[str, list[str]] = {}
    latest = ""
    for line in text.splitlines():
        if head := HEAD.fullmatch(line):
            kind, latest, rest = head.groups()
            assert kind not in heads.setdefault(latest, []), f"{latest} has two {kind}"
            assert kind == "HELP" or rest in ("gauge", "counter"), line
            heads[latest].append(kind)
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, f"no sample: {line!r}"
        assert sample[1] == latest and heads[latest] == ["HELP", "TYPE"], f"{sample[1]} stands outside of its family"
        labels = re.findall(LABEL, sample[2] or "")
        key = sample[1], frozenset((name, _unescaped(value)) for name, value in labels)
        assert len(key[1]) == len(labels) and key not in found, f"twice: {line}"
        found[key] = float(sample[sample.re.groups])
    return found


def scrape(url: str, timeout_s: float = 10.0) -> Samples:
    """What an endpoint serves."""
    with urllib.request.urlopen(url, timeout=timeout_s) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parse(reply.read().decode())


def _unescaped(value: str) -> str:
    return re.sub(r'\\(["\\n])', lambda found: {"n": "\n"}.get(found[1], found[1]), value)
