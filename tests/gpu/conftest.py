"""Needs a CUDA device: nothing is collected without one."""

import torch

collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]
