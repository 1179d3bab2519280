"""Methods: how prompts become requests and graded groups become advantages. Pure: no torch.distributed, no I/O."""
