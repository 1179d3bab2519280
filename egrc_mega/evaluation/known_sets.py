"""The benchmarks of the paper and those they are mistaken for: how many rows each has, and how its answers are graded.

Identities: methods of the field differ in what they call Minerva and AMC; here each set has a name of its own.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSet:
    """What is known of one benchmark."""

    name: str
    rows: tuple[int, ...]
    """How many problems copies of it have."""
    profile: str
    """Conventions by which its answers are graded (docs/grading.md)."""
    hub: tuple[str, str | None, str]
    """Where the hub has it: repository, configuration, split."""
    what: str
    """What it is, in words."""


KNOWN_SETS = {
    each.name: each
    for each in (
        KnownSet(
            name="aime24",
            rows=(30,),
            profile="aime",
            hub=("HuggingFaceH4/aime_2024", None, "train"),
            what="AIME I and II of 2024",
        ),
        KnownSet(
            name="amc83",
            rows=(83,),
            profile="amc",
            hub=("AI-MO/aimo-validation-amc", None, "train"),
            what="AMC12 of 2022 and 2023 with integer answers: the paper's AMC for models that began as R1-Distill",
        ),
        KnownSet(
            name="amc23",
            rows=(40,),
            profile="amc",
            hub=("math-ai/amc23", None, "test"),
            what="AMC23 with 40 problems: the paper's AMC for Qwen2.5",
        ),
        KnownSet(
            name="math500",
            rows=(500,),
            profile="math",
            hub=("HuggingFaceH4/MATH-500", None, "test"),
            what="MATH-500",
        ),
        KnownSet(
            name="minerva_algebra",
            rows=(1187,),
            profile="math",
            hub=("EleutherAI/hendrycks_math", "algebra", "test"),
            what="Hendrycks' MATH, algebra: the paper's Minerva",
        ),
        KnownSet(
            name="minerva_math",
            rows=(272,),
            profile="minerva",
            hub=("math-ai/minervamath", None, "test"),
            what="MinervaMath, which the paper's Minerva is not",
        ),
        KnownSet(
            name="olympiadbench",
            rows=(674, 675),
            profile="olympiadbench",
            hub=("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train"),
            what="OlympiadBench, English mathematics with open answers",
        ),
        KnownSet(
            name="gsm8k",
            rows=(1319,),
            profile="gsm8k",
            hub=("openai/gsm8k", "main", "test"),
            what="GSM8K, test",
        ),
    )
}
"""By name."""


def named_file(text: str) -> tuple[str, Path]:
    """`NAME=FILE`, or a file whose benchmark is told by its name: the set's, or all of it without its endings."""
    name, equals, path = text.partition("=")
    if equals and name and "/" not in name:
        return name, Path(path)
    file = Path(text)
    parts = file.name.lower().replace("-", ".").split(".")
    known = next((part for part in parts if part in KNOWN_SETS), None)
    return known or file.name.split(".")[0], file


def profile_of(name: str) -> str:
    """The conventions by which a benchmark of this name is graded; those of an unknown set where nobody knows it."""
    return KNOWN_SETS[name].profile if name in KNOWN_SETS else "default"
