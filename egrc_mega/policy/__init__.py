"""The policy on megatron-core: model, packing, one update step, weights in and out."""
