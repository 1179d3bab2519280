"""The sections of a configuration: every field typed, bounded, described. Nothing here imports torch.

Defaults are the paper's or the closest public recipe's; see `configs/` for complete files. The section `megatron` keeps
megatron-core's own field names. A method's own section stands beside its class, in `methods/`.
"""
