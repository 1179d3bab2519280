"""Checkpoints: megatron-core's sharded format under a thin commit layer."""
