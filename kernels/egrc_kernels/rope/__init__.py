"""Rotary position embedding of packed tokens with float32 inside."""

from egrc_kernels.rope.api import rope

__all__ = ["rope"]
