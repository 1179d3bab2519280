"""The model card of a published run: what it is, how it was measured, what it saves, and under whose licence it stands.

Everything that comes from files is escaped or fenced: a card is Markdown, which may hold markup.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from egrc_mega.report.evaluations import BeforeAfter

_ESCAPES = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]#!~"} | {c: f"&#{ord(c)};" for c in "<>|&"})
UNKNOWN_LICENCE = "unknown"
"""What the hub takes for a base whose licence nobody has stated."""


def card_of(facts: Mapping[str, Any], tables: Sequence[Mapping[str, Any]], change: BeforeAfter | None) -> str:
    """The README.md: YAML for the hub, then Markdown.

    Args:
        facts: `name`, `base`, `licence` (None: not stated), `parity` (a sentence), `config` (YAML), `versions`,
            `summary`.
        tables: of `report.evaluations.tables_of`.
        change: base and last point; None: nothing was measured before and after.
    """
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": facts["licence"] or UNKNOWN_LICENCE,
        "tags": ["egrc", "reasoning", "compression"],
    }
    if facts["base"]:
        header["base_model"] = facts["base"]
    if change and change.final.accuracy is not None:
        header["model-index"] = [_results(facts["name"], tables)]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {plain_markdown(facts['name'])}",
        *(plain_markdown(sentence) for sentence in facts["summary"]),
        "Made with egrc_mega by Entropy-Guided Reasoning Compression.",
        "## Evaluation",
        *([_table(one) for one in tables] or ["Nothing was measured."]),
        "## Savings",
        _savings(change),
        "## Is this what was trained?",
        plain_markdown(facts["parity"]),
        "## Licence",
        _licence(facts),
        "## Configuration",
        _fenced(facts["config"], "yaml"),
        "## Versions",
        _fenced(facts["versions"], "text"),
    ]
    return "\n\n".join(parts) + "\n"


def _results(name: str, tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last row of each table, as the hub lists results."""
    found = []
    for one in tables:
        row = one["rows"][-1]
        if row["accuracy"]:
            data = {"name": one["benchmark"], "type": one["benchmark"]}
            metrics = [
                {"type": "accuracy", "value": row["accuracy"][0], "name": f"accuracy at T {one['temperature']}"},
                {"type": "length", "value": row["length"][0], "name": "mean output tokens"},
            ]
            found.append({"task": {"type": "text-generation"}, "dataset": data, "metrics": metrics})
    return {"name": name, "results": found}


def _table(one: Mapping[str, Any]) -> str:
    lines = [
        f"**{plain_markdown(one['benchmark'])} at temperature {one['temperature']}**",
        "",
        plain_markdown(one["caption"]),
        "",
        "| model | accuracy (95 %) | mean length (95 %) | of base | L-Acc | n | ungraded |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in one["rows"]:
        accuracy = "-" if row["accuracy"] is None else _percents(row["accuracy"])
        length = "-" if row["length"] is None else "{:.1f} ({:.1f} to {:.1f})".format(*row["length"])
        share = "-" if row["share"] is None else f"{100 * row['share']:.1f} %"
        l_acc = "-" if row["l_acc"] is None else f"{100 * row['l_acc'][0]:.1f} %"
        cells = [plain_markdown(row["name"]), accuracy, length, share, l_acc, str(row["n"]), str(row["ungraded"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percents(figure: Sequence[float]) -> str:
    return "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * value for value in figure))


def _savings(change: BeforeAfter | None) -> str:
    if change is None:
        return "Unknown: nothing was measured before and after."
    base, final = change.base, change.final
    share = final.mean_length / base.mean_length if base.mean_length else 1.0
    l_acc = "unknown" if final.l_acc is None else f"{100 * final.l_acc:.1f} %"
    longer = "" if share < 1 else " Responses are no shorter than the base's, so L-Acc is 0."
    return (
        f"Responses have {100 * share:.1f} % of the base's length ({base.mean_length:.1f} to {final.mean_length:.1f} "
        f"tokens). L-Acc, accuracy times the root of (1 - length / base length), is {l_acc}, against the base with "
        f"weights `{base.weights[:12]}`, measured by the same protocol `{base.protocol[:12]}`.{longer}"
    )


def _licence(facts: Mapping[str, Any]) -> str:
    if facts["licence"]:
        return f"That of the base model: {plain_markdown(facts['licence'])}."
    return "The base model's folder states no licence. Find it out before you share these weights."


def plain_markdown(text: str) -> str:
    """Text of files in one line, of which no character is markup."""
    return " ".join(str(text).split()).translate(_ESCAPES)


def _fenced(text: str, kind: str) -> str:
    """A block that its content cannot end."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"
