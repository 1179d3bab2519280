"""Pairs of gold and response, each with the verdict of a mathematician, or where that is a policy, of docs/grading.md.

`cases.jsonl` has pairs from public threads, data and graders' tests; `own_cases.txt` has at least as many of each kind.
"""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from egrc_mega.grading.extract import END_OF_THINKING, extract_answer
from egrc_mega.grading.ladder import judge
from egrc_mega.types import Hints

HERE = Path(__file__).parent
FIRM_SHARE = 0.97
MAX_CPU_S = 0.5


@dataclass(frozen=True)
class Case:
    kind: str
    gold: str
    response: str
    expect: str
    hints: Hints
    is_policy: bool


def given_cases() -> list[Case]:
    rows = [json.loads(line) for line in (HERE / "cases.jsonl").read_text().splitlines()]
    return [
        Case(r["kind"], r["gold"], r["response"], r["expect"], Hints(**r.get("hints", {})), "policy" in r["note"])
        for r in rows
    ]


def own_cases() -> list[Case]:
    lines = [line for line in (HERE / "own_cases.txt").read_text().splitlines() if line and not line.startswith("#")]
    cases = []
    for line in lines:
        kind, wanted, gold, answer = (field.strip(" ") for field in line.split("¦"))
        expect, _, profile = wanted.partition(" ")
        response = answer if kind == "extract" else f"</think> The answer is $\\boxed{{{answer}}}$."
        cases.append(Case(kind, gold, response, expect, Hints(profile=profile or "default"), False))
    return cases


GIVEN, OWN = given_cases(), own_cases()


def verdict_on(case: Case) -> str:
    answer = extract_answer(case.response, prompt_thinks=END_OF_THINKING in case.response)
    return "wrong" if answer is None else judge(answer, case.gold, case.hints).grade.value


def failures(cases: list[Case]) -> list[str]:
    verdicts = [(case, verdict_on(case)) for case in cases]
    return [f"{c.kind}: {c.gold} / {c.response[-80:]}: {v}, not {c.expect}" for c, v in verdicts if v != c.expect]


def test_every_given_case_has_its_verdict() -> None:
    assert failures(GIVEN) == []


def test_every_own_case_has_its_verdict() -> None:
    assert failures(OWN) == []


@pytest.mark.parametrize(
    "case", [case for case in GIVEN + OWN if case.kind == "hostile"], ids=lambda case: case.response[-60:-3]
)
def test_a_hostile_answer_is_wrong_at_once(case: Case) -> None:
    started = time.process_time()
    assert verdict_on(case) == "wrong"
    assert time.process_time() - started < MAX_CPU_S


def test_each_kind_has_at_least_as_many_own_cases_as_given_ones() -> None:
    given, own = (Counter(case.kind for case in cases) for cases in (GIVEN, OWN))
    assert {kind: count - own[kind] for kind, count in given.items() if own[kind] < count} == {}
