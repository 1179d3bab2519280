"""Exact log-prob, entropy and loss operations for RL on language models, usable without egrc_mega."""
