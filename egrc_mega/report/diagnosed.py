"""The diagnosis part of the page: what a bounded number of responses are made of, before and after."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from egrc_mega.diagnosis.text_totals import ALL, TextTotals
from egrc_mega.diagnosis.texts import facts_of
from egrc_mega.diagnosis.token_classes import CLASSES, classes_of
from egrc_mega.evaluation.responses import SampledResponse
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample
from egrc_mega.report.browser import spread
from egrc_mega.report.curves import rounded
from egrc_mega.report.evaluations import BeforeAfter, Measured, name_of
from egrc_mega.report.tokens import Pieces
from egrc_mega.types import Grade, token_array

MAX_RESPONSES, MAX_CHARACTERS = 128, 400_000
"""Of either side: what is looked at."""
ENDS = 3
"""Steps at either end of the training whose rollouts are one side, where there was no evaluation."""
FIGURES = (
    ("length", "output tokens", ("mean", "p50", "p90")),
    ("steps", "steps of reasoning", ("mean",)),
    ("words", "words and signs", ()),
    ("connectors_starting", "connectors at sentence starts", ()),
    ("connectors_elsewhere", "connectors within sentences", ()),
    ("redundant", "redundant connectors (Wait, Hmm, Alternatively)", ()),
    ("repetition", "share said before, in runs of four", ()),
    ("num_loops", "responses that loop", ()),
    ("num_truncated", "responses cut by the cap", ()),
)
MAX_CONNECTORS, MAX_WORDS, MIN_COUNT = 12, 16, 5

Side = tuple[str, list[SampledResponse]]


def diagnosis_of(
    measured: Measured, change: BeforeAfter | None, stored: Sequence[tuple[int, StoredGroup]], pieces: Pieces | None
) -> dict[str, Any] | None:
    """Texts before and after, and token entropies early and late where they were recorded; None: there are no texts."""
    sides = _evaluated(measured, change) or _trained(stored)
    if not sides:
        return None
    totals = [_totals(responses) for _, responses in sides]
    return {
        "sides": [
            {"name": name, "num": each["by_verdict"][ALL]["num"]} for (name, _), each in zip(sides, totals, strict=True)
        ],
        "figures": _figures(totals),
        "connectors": _connectors(totals),
        "loops": [{"unit": loop["unit"], "repeats": rounded(loop["repeats"])} for loop in totals[-1]["loops"][:5]],
        "entropy": _entropies(stored, pieces),
    }


def _evaluated(measured: Measured, change: BeforeAfter | None) -> list[Side]:
    """The kept responses of base and last point."""
    points = [change.base, change.final] if change else []
    sides = [(name_of(p), [_sampled(r.problem, r.text, r.grade, r.length, r.truncated) for r in measured.kept(p)])
             for p in points]  # fmt: skip
    return sides if all(responses for _, responses in sides) else []


def _trained(stored: Sequence[tuple[int, StoredGroup]]) -> list[Side]:
    """Rollouts of the first and of the last steps that the page shows."""
    steps = sorted({step for step, _ in stored})
    ends = max(1, min(ENDS, len(steps) // 2))
    parts = [steps[:ends], steps[-ends:]] if len(steps) > 1 else [steps]
    return [(_in_words(part), [_of_rollout(g, s) for step, g in stored if step in part for s in g.samples])
            for part in parts if part]  # fmt: skip


def _in_words(steps: Sequence[int]) -> str:
    return f"rollouts of step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps))}"


def _of_rollout(group: StoredGroup, sample: StoredSample) -> SampledResponse:
    return _sampled(group.prompt, sample.text, sample.grade, len(sample.output_ids), sample.truncated)


def _sampled(prompt: str, text: str, grade: str, length: int, truncated: bool) -> SampledResponse:
    verdict = Grade(grade) if grade in list(Grade) else None
    return SampledResponse(
        place="", problem_id=prompt, prompt=prompt, text=text, verdict=verdict, length=length, truncated=truncated
    )


def _totals(responses: Sequence[SampledResponse]) -> dict[str, Any]:
    """Of responses spread evenly over all, as many as the bounds allow."""
    totals, left = TextTotals(), MAX_CHARACTERS
    for number in spread(range(len(responses)), MAX_RESPONSES):
        left -= len(responses[number].text)
        if left < 0 and number:
            break
        totals.add(facts_of(responses[number]))
    return totals.result()


def _figures(totals: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for name, label, parts in FIGURES:
        for part in parts or ("",):
            values = [each["by_verdict"][ALL][name] for each in totals]
            shown = [(value or {}).get(part) if part else value for value in values]
            rows.append({"label": f"{label}{f', {part}' if part else ''}", "values": [rounded(v) for v in shown],
                         "is_share": name == "repetition"})  # fmt: skip
    return rows


def _connectors(totals: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most frequent ones, per response."""
    names = sorted(totals[0]["connectors"], key=lambda n: -max(each["connectors"][n]["count"] for each in totals))
    rows = []
    for name in names[:MAX_CONNECTORS]:
        own = [each["connectors"][name] for each in totals]
        if any(each["count"] for each in own):
            values = [rounded(each[f"{ALL}_starting"] + each[f"{ALL}_elsewhere"]) for each in own]
            rows.append({"name": name, "kind": own[0]["kind"], "values": values})
    return rows


def _entropies(stored: Sequence[tuple[int, StoredGroup]], pieces: Pieces | None) -> list[dict[str, Any]]:
    """Recorded token entropies of the first and of the last steps that have some; empty where none has."""
    rows = [(step, sample) for step, group in stored for sample in group.samples if sample.entropies is not None]
    steps = sorted({step for step, _ in rows})
    parts = [steps[:1], steps[-1:]] if len(steps) > 1 else [steps]
    return [_of_entropies(part[0], [sample for step, sample in rows if step in part], pieces) for part in parts if part]


def _of_entropies(step: int, samples: Sequence[StoredSample], pieces: Pieces | None) -> dict[str, Any]:
    nats = np.concatenate([np.asarray(s.entropies, np.float64)[s.sampled] for s in samples] or [np.zeros(0)])
    total, top = float(nats.sum()), -(-len(nats) // 5)
    return {
        "step": step,
        "num_tokens": len(nats),
        "mean": rounded(float(nats.mean())) if len(nats) else None,
        "share_of_top_fifth": rounded(float(np.sort(nats)[-top:].sum()) / total) if total else None,
        **_by_kind(samples[:MAX_RESPONSES], pieces),
    }


def _by_kind(samples: Iterable[StoredSample], pieces: Pieces | None) -> dict[str, Any]:
    """Mean entropy of each class of tokens, and the tokens of highest mean entropy."""
    classes: dict[str, list[float]] = {}
    words: dict[str, list[float]] = {}
    for sample in samples if pieces else ():
        assert pieces is not None and sample.entropies is not None
        sizes = pieces.cut(sample.text, sample.output_ids)
        if sizes is None:
            continue
        ends = token_array(np.cumsum(sizes).tolist())
        found, _ = classes_of(sample.text, ends, sample.output_ids, pieces.renderer.tokenizer.all_special_ids)
        nats = np.asarray(sample.entropies, np.float64)
        for i in np.flatnonzero(sample.sampled).tolist():
            classes.setdefault(CLASSES[int(found[i])], []).append(float(nats[i]))
            piece = sample.text[ends[i] - sizes[i] : ends[i]].strip()
            words.setdefault(piece, []).append(float(nats[i]))
    frequent = [(word, np.mean(v), len(v)) for word, v in words.items() if word and len(v) >= MIN_COUNT]
    frequent.sort(key=lambda row: -row[1])
    return {
        "classes": {name: [rounded(float(np.mean(values))), len(values)] for name, values in classes.items()},
        "words": [[word[:40], rounded(float(mean)), count] for word, mean, count in frequent[:MAX_WORDS]],
    }
