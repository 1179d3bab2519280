"""Logits by transformers' own model class: the judge of a conversion."""

from collections.abc import Sequence
from pathlib import Path

import torch


def hf_logits(folder: Path, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Float32 [tokens, vocabulary] of a Hugging Face folder, one sequence after the other, in the folder's dtype."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False).eval()
    with torch.no_grad():
        return torch.cat([model(torch.tensor([list(sequence)])).logits[0].float() for sequence in sequences])
