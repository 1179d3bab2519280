"""Checkpoints: megatron-core's sharded format under a thin commit layer."""

from egrc_mega.observe.hush import hush_megatron

hush_megatron()
