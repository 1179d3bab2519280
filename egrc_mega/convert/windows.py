"""Sliding windows as a config.json tells them: what is in effect is refused, the tables express full attention only."""

from collections.abc import Iterator

from egrc_mega.convert.hf_config import HfConfig, is_whole

DEFAULT_WINDOW = 4096
"""What transformers takes where `sliding_window` is absent."""
DEFAULT_FIRST = 28
"""What it takes where `max_window_layers` is absent: the first layer that slides."""
FULL = ("full_attention", "attention")
"""The second is what older versions call it."""


def require_full_attention(config: HfConfig, *, by_layer: bool) -> None:
    """Refuse windows of a Qwen: they are off unless config.json switches them on, and then for some layers or for all.

    Args:
        by_layer: the first `max_window_layers` layers never slide; else transformers does not know that field.
    """
    config.problems += _window_problems(config, by_layer=by_layer)
    if is_whole(config.fields.get("sliding_window")):
        config.note("sliding_window", config.fields["sliding_window"], "sliding_window")  # of no effect, or refused
    layers, types = config.fields.get("num_hidden_layers"), config.fields.get("layer_types")
    if types is not None and (
        not isinstance(types, list) or len(types) != layers or any(kind not in FULL for kind in types)
    ):
        config.problems.append(f"layer_types is {types!r:.120}, must be 'full_attention' for each layer")


def _window_problems(config: HfConfig, *, by_layer: bool) -> Iterator[str]:
    window = config.fields.get("sliding_window", DEFAULT_WINDOW)
    first = config.fields.get("max_window_layers", DEFAULT_FIRST) if by_layer else 0
    for name, value in (("sliding_window", 0 if window is None else window), ("max_window_layers", first)):
        if not is_whole(value):
            yield f"{name} is {value!r:.80}, must be a whole number"
            return
    layers = config.fields.get("num_hidden_layers")
    is_on = config.flag("use_sliding_window", default=False) and window is not None
    if is_on and is_whole(layers) and first < layers:
        yield (
            f"use_sliding_window is True, so layers {first} to {layers - 1} slide over a window of {window} tokens; "
            f"only full attention can be expressed"
        )
