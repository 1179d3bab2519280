"""Rotary position embeddings as a config.json tells them, in one place or in several."""

from dataclasses import dataclass
from typing import Any

from egrc_mega.convert.hf_config import ABSENT, HfConfig, is_positive

DEFAULT_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn queries and keys, as transformers would compute it."""

    type: str
    theta: float
    scaling: dict[str, Any]
    """What the type needs besides: for llama3 its factors and the context that the model was first trained on."""


SCALING_KEYS = {
    "default": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Types of rope that megatron-core has, and what each must state."""
COMMON_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
NO_ROPE = Rope("default", DEFAULT_THETA, {})


def read_rope(config: HfConfig, types: tuple[str, ...] = ("default",)) -> Rope:
    """Rope as it is told in `rope_parameters` (transformers 5), or in `rope_theta` and `rope_scaling` (before).

    Where both are told transformers obeys `rope_scaling`, and a `rope_theta` within either one before the one outside;
    files in which these differ are refused, for other readers obey the other.

    Args:
        types: that the family expresses.
    """
    config.require(partial_rotary_factor=1.0, may_be_null=("partial_rotary_factor",))
    told = {name: _table(config, name) for name in ("rope_scaling", "rope_parameters")}
    found = {name: _rope(config, name, table, types) for name, table in told.items() if table}
    ropes = list(found.values()) or [_rope(config, "rope_theta", {}, types)]
    if any(rope != ropes[0] for rope in ropes):
        config.problems.append(
            f"rope_scaling and rope_parameters tell two ropes, {_words(ropes[0])} and {_words(ropes[1])}; transformers "
            f"obeys rope_scaling, others rope_parameters: keep the one that the model was trained with"
        )
    origin = next(iter(found), "rope_theta" if "rope_theta" in config.fields else ABSENT)
    has_own = "rope_theta" in told.get(origin, {})
    config.note("rope_theta", ropes[0].theta, f"{origin}.rope_theta" if has_own else _outer_origin(config))
    config.note("rope_type", ropes[0].type, origin if found else ABSENT)
    for name, value in ropes[0].scaling.items():
        config.note(f"rope.{name}", value, f"{origin}.{name}")
    return ropes[0]


def _outer_origin(config: HfConfig) -> str:
    return "rope_theta" if "rope_theta" in config.fields else ABSENT


def _words(rope: Rope) -> str:
    return f"{rope.type} with theta {rope.theta:g}" + (f" {rope.scaling}" if rope.scaling else "")


def _table(config: HfConfig, name: str) -> dict[str, Any]:
    table = config.fields.get(name)
    if table is None or isinstance(table, dict):
        return table or {}
    config.problems.append(f"{name} is {table!r:.80}, must be an object or null")
    return {}


def _rope(config: HfConfig, where: str, table: dict[str, Any], types: tuple[str, ...]) -> Rope:
    """The rope of one table; an empty one leaves everything to `rope_theta` and the defaults."""
    kind = table.get("rope_type", table.get("type", "default"))
    if "type" in table and table["type"] != kind:
        config.problems.append(f"{where} says rope_type {kind!r:.50} and type {table['type']!r:.50}; state it once")
    theta = _theta(config, where, table)
    if not isinstance(kind, str) or kind not in types:
        config.problems.append(f"{where}: rope type is {kind!r:.50}, this family's table expresses {', '.join(types)}")
        return NO_ROPE
    if table.get("partial_rotary_factor", 1.0) != 1.0:
        config.problems.append(f"{where}: partial_rotary_factor is {table['partial_rotary_factor']!r:.50}, not 1.0")
    for name in table.keys() - {*COMMON_KEYS, *SCALING_KEYS[kind]}:
        config.problems.append(f"{where}: {name} is not understood with rope type {kind!r}")
    # transformers' own default
    stated = {"original_max_position_embeddings": config.fields.get("max_position_embeddings")} | table
    for name in SCALING_KEYS[kind]:
        if not is_positive(stated.get(name)):
            config.problems.append(f"{where}: {name} is {stated.get(name)!r:.50}, must be a positive number")
    return Rope(kind, theta, {name: stated.get(name) for name in SCALING_KEYS[kind]})


def _theta(config: HfConfig, where: str, table: dict[str, Any]) -> float:
    outside = config.fields.get("rope_theta", DEFAULT_THETA)
    theta = table.get("rope_theta", outside)
    if "rope_theta" in table and config.fields.get("rope_theta", theta) not in (theta, None):
        config.problems.append(
            f"rope_theta is {outside!r:.50}, but {where} says {theta!r:.50}; transformers obeys the latter, others the "
            f"former: keep the one that the model was trained with"
        )
    if not is_positive(theta):
        config.problems.append(f"rope_theta is {theta!r:.50}, must be a positive number")
        return DEFAULT_THETA
    return float(theta)
