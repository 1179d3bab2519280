"""What a check has found."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How much it matters."""

    OK = "ok"
    WARN = "warn"
    """A run works, slower or with a risk; or the check could not be made."""
    FAIL = "fail"
    """A run would not start, or not end well."""


ORDER = tuple(Verdict)
"""From best to worst."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    name: str
    verdict: Verdict
    found: str
    """What is there."""
    fix: str = ""
    """What to do; empty where nothing needs to be done."""
    needed: str = ""
    """Of a package: the range, or `optional`."""


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict of all; ok for none."""
    return max((finding.verdict for finding in findings), key=ORDER.index, default=Verdict.OK)


def ok(name: str, found: str) -> Finding:
    """A finding with nothing to do."""
    return Finding(name, Verdict.OK, found)


def warn(name: str, found: str, fix: str) -> Finding:
    """A finding that one should know of."""
    return Finding(name, Verdict.WARN, found, fix)


def fail(name: str, found: str, fix: str) -> Finding:
    """A finding that is to be mended first."""
    return Finding(name, Verdict.FAIL, found, fix)
