"""The model's tensors by the names that a Hugging Face folder has for them."""

import torch
from transformers import PreTrainedModel


def hf_tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What is written into them is in the model: experts, which transformers 5 stacks, are views."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        experts, _, part = name.rpartition(".")
        if not experts.endswith(".experts"):
            found[name] = tensor
            continue
        for number, own in enumerate(tensor):
            parts = (
                zip(("gate_proj", "up_proj"), own.chunk(2), strict=True) if part == "gate_up_proj" else [(part, own)]
            )
            found |= {f"{experts}.{number}.{kind}.weight": view for kind, view in parts}
    return found
