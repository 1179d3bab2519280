"""One file per model family: its table, and what of its config.json can be expressed in megatron-core."""
