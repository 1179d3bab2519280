"""The policy on megatron-core: model, packing, one update step, weights in and out."""

from egrc_mega.observe.hush import hush_megatron

hush_megatron()
