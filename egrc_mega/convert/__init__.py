"""Checkpoint conversion between Hugging Face and Megatron: one declarative name table per model family."""
