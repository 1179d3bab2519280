"""The conventions of the data sets, as a table: what a grader may overlook, and what it must demand.

Every rule is a field of `Profile`; no code asks for a set by its name.
"""

from dataclasses import dataclass

from egrc_mega.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one data set wants of an answer. The defaults are those of an unknown set."""

    name: str
    demands_numeral: bool = False
    """An integer gold wants its digits: `12!`, `2^{10}` and `200+4` are wrong. Otherwise powers, roots and binomials
    are taken, and only arithmetic that was left undone and named operations are wrong."""
    integer_range: tuple[int, int] | None = None
    """Every gold is an integer in it; another gold is a fault of the file."""
    relative_tolerance: float = 0.0
    """A numeric answer so near to a numeric gold is right."""
    rounds_to_gold: bool = False
    """A value that rounds to the digits of a decimal gold is right."""
    list_is_alternatives: bool = False
    """A gold that is a list of texts means: any of them is right. Otherwise all of them are wanted."""


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="default"),
        Profile(name="aime", demands_numeral=True, integer_range=(0, 999)),
        Profile(name="amc", demands_numeral=True),
        Profile(name="math"),
        Profile(name="gsm8k", demands_numeral=True),
        Profile(name="minerva", relative_tolerance=0.01, rounds_to_gold=True, list_is_alternatives=True),
        Profile(name="olympiadbench", rounds_to_gold=True),
        Profile(name="deepscaler"),
    )
}
"""By name."""


def profile_called(name: str) -> Profile:
    """The profile of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PROFILES:
        raise ConfigError(f"grading.profile: {name!r} is unknown; choose from {', '.join(PROFILES)}")
    return PROFILES[name]
