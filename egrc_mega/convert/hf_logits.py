"""Logits by transformers' own model class: the judge of a conversion."""

from collections.abc import Sequence
from pathlib import Path

import torch


def hf_logits(folder: Path, sequences: Sequence[Sequence[int]], dtype: torch.dtype | None = None) -> torch.Tensor:
    """[tokens, vocabulary] of a Hugging Face folder, one sequence after the other.

    Args:
        dtype: to compute in; None: the folder's own. The result is float64 for float64, else float32.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for each folder's weights stands in the way of what is found
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto", trust_remote_code=False).eval()
    if hasattr(model.config, "num_experts"):
        model.set_experts_implementation("eager")  # the faster products know no float64
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    with torch.no_grad():
        return torch.cat([model(torch.tensor([list(sequence)])).logits[0].to(kept) for sequence in sequences])
