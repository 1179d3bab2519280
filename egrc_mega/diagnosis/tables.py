"""A diagnosis as tables for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from egrc_mega.diagnosis.connectors import REDUNDANT
from egrc_mega.diagnosis.text_totals import ALL

SHOWN_LOOPS, SHOWN_WORDS = 10, 12
Figures = Mapping[str, Any]


def all_tables(result: Figures) -> Iterator[RenderableType]:
    """The tables of a diagnosis, of whatever it has."""
    yield from text_tables(result["texts"], result["base_texts"])
    if result["tokens"]:
        yield from token_tables(result["tokens"])
    if result["objectives"]:
        yield objectives_table(result["objectives"][-1])


def text_tables(own: Figures, base: Figures | None) -> Iterator[RenderableType]:
    """What texts show, the base's columns first; then connectors, then loops. Each argument: `TextTotals.result`."""
    sets = ([("base ", base)] if base else []) + [("", own)]
    columns = [(f"{prefix}{verdict}", sums) for prefix, each in sets for verdict, sums in each["by_verdict"].items()]
    yield _figures(columns)
    yield _connectors(own, base)
    for prefix, each in sets:
        if each["loops"]:
            yield _loops(f"{prefix}responses that loop", each["loops"])


def _figures(columns: list[tuple[str, Figures]]) -> Table:
    table = Table("mean of a response", *(name for name, _sums in columns))
    table.add_row("responses", *(str(sums["num"]) for _name, sums in columns))
    for name in ("length", "steps"):
        for part in ("mean", "p50", "p90"):
            label = f"{name} {part}".removesuffix(" mean")
            table.add_row(label, *(number((sums[name] or {}).get(part)) for _name, sums in columns))
    rows = {
        "connectors_starting": "connectors at sentence starts",
        "connectors_elsewhere": "connectors within sentences",
        "connectors_per_1k_tokens": "connectors in 1k tokens",
        "redundant": f"redundant ({', '.join(REDUNDANT)})",
        "words": "words and signs",
    }
    for field, label in rows.items():
        table.add_row(label, *(number(sums[field]) for _name, sums in columns))
    table.add_row("said before, in runs of four", *(share(sums["repetition"]) for _name, sums in columns))
    table.add_row("loops (responses)", *(str(sums["num_loops"]) for _name, sums in columns))
    return table


def _connectors(own: Figures, base: Figures | None) -> Table:
    """Connectors that stand anywhere, most frequent first."""
    names = ["base start", "base within"] if base else []
    table = Table("connector", "kind", *names, "start", "within", "in 1k tokens", title="connectors of a response")
    for name, figures in sorted(own["connectors"].items(), key=lambda item: -item[1]["count"]):
        sets = ([base["connectors"][name]] if base else []) + [figures]
        if any(each["count"] for each in sets):
            counts = [number(each[f"{ALL}_{place}"]) for each in sets for place in ("starting", "elsewhere")]
            table.add_row(name, figures["kind"], *counts, number(figures["per_1k_tokens"]))
    return table


def _loops(title: str, loops: list[Figures]) -> Table:
    table = Table("where", "verdict", "times", "words", "of text", "what", title=title)
    for loop in loops[:SHOWN_LOOPS]:
        where = loop["place"].rpartition("/")[2]
        unit = " ".join(loop["unit"].split())
        counts = (f"{loop['repeats']:.0f}", str(loop["period"]), share(loop["share"]))
        table.add_row(Text(where), loop["verdict"] or "-", *counts, Text(unit[:40]))
    if len(loops) > SHOWN_LOOPS:
        table.caption = f"and {len(loops) - SHOWN_LOOPS} more in diagnosis.json"
    return table


def token_tables(tokens: Figures) -> Iterator[RenderableType]:
    """What the model says of the tokens: entropy by class and part, entropy and gradient, the clouds' first words."""
    entropy = tokens["entropy"]
    table = Table("tokens", "number", "entropy", "p", "gradient", title="mean of a token: nats, ||d log p / d logits||")
    table.caption = (
        f"the fifth of highest entropy holds {share(entropy.get('share_of_top_fifth'))} of all; "
        f"{share(entropy.get('share_below_0.01'))} of the tokens have less than 0.01 nats"
    )
    rows = {"connectors": tokens["connectors"], **tokens["classes"], **tokens["parts"]}
    for name, figures in rows.items():
        cells = (number(figures[key]) for key in ("entropy", "probability", "gradient_logits"))
        table.add_row(name, str(figures["num"]), *cells)
    yield table
    yield _correlations(tokens["entropy_gradient"])
    for title, words in (("highest", tokens["clouds"]["high"]), ("lowest", tokens["clouds"]["low"])):
        texts = [f"{word['text']} {number(word['entropy'])} ({word['count']})" for word in words[:SHOWN_WORDS]]
        yield Text(f"{title} mean entropy: {', '.join(texts)}")


def _correlations(sizes: Figures) -> Table:
    """Entropy and gradient size, over all tokens and within bins of p(token)."""
    bins = [f"{one['p_from']:g}-{one['p_to']:g}" for one in sizes["logits"]["by_probability"]]
    title = "entropy and gradient size; on the right Pearson within bins of p(token)"
    table = Table("at", "number", "Pearson", "Spearman", *bins, title=title)
    for name, figures in sizes.items():
        within = [number(one["pearson"]) for one in figures["by_probability"]]
        both = (number(figures["pearson"]), number(figures["spearman"]))
        table.add_row(name.replace("_", " "), str(figures["num"]), *both, *within)
    return table


def objectives_table(step: Figures) -> Table:
    """What compress and explore teach of a step's rollouts, word by word."""
    title = f"step {step['step']}: sum of advantages, {step['num_samples']} samples under both objectives"
    table = Table("", "compress", "explore", "conflict", "entangled: conflict", title=title)
    entangled = step["conflict"]["entangled"]
    for name, masses in step["conflict"]["same_rollouts"].items():
        cells = (number(masses[key]) for key in ("compress", "explore", "conflict"))
        table.add_row(name, *cells, number(entangled[name]["conflict"]))
    if gradients := step.get("gradients"):
        cosines = {way: number(gradients[way]["cosine"]) for way in ("same_rollouts", "entangled")}
        table.caption = (
            f"cosine of the two gradients at the last block: {cosines['same_rollouts']}; "
            f"entangled: {cosines['entangled']} ({gradients['num_samples']} samples)"
        )
    return table


def number(value: float | None) -> str:
    """Three digits or all before the point; a dash for what is not known."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share in percent."""
    return "-" if value is None else f"{100 * value:.1f}%"
