"""Entropy-guided reasoning compression on Megatron. Importing it imports no torch."""

__version__ = "0.1.0"
