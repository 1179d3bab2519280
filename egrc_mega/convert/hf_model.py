"""Loads a Hugging Face folder as transformers' own model, and takes it apart into body and output layer."""

from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.convert.weight_files import weight_files

HfModel = PreTrainedModel
"""What every function here means by a model."""


def load_hf_model(folder: Path, dtype: torch.dtype = torch.float32) -> HfModel:
    """The model of a local folder on the CPU, ready to be asked; no code of the folder is run.

    Raises:
        ModelError: a folder that other readers would read otherwise, or of an architecture that is not known here.
    """
    read_architecture(folder)
    weight_files(folder)
    transformers_logging.disable_progress_bar()  # a bar for each file of weights says nothing to a reader of tables
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True, trust_remote_code=False
    )
    if hasattr(model.config, "num_experts") and dtype is torch.float64:
        model.set_experts_implementation("eager")  # the faster products know no float64
    return model.eval()


def hidden_states(model: HfModel, ids_T: torch.Tensor, cache: Any = None) -> tuple[torch.Tensor, Any]:
    """What the output layer is given at each token, [T, H], and the cache by which more tokens may follow.

    Args:
        ids_T: int64[T], the tokens that follow those in the cache.
        cache: of the call before; None: the text begins here.
    """
    output = model.base_model(input_ids=ids_T[None], past_key_values=cache, use_cache=True)
    return output.last_hidden_state[0], output.past_key_values


def output_weight(model: HfModel) -> torch.Tensor:
    """The output layer's weight, [V, H]; the families that are known here have no bias and scale nothing."""
    weight: torch.Tensor = model.get_output_embeddings().weight
    return weight


def last_block(model: HfModel) -> list[torch.nn.Parameter]:
    """The parameters of the last decoder layer."""
    layers = cast(torch.nn.ModuleList, model.base_model.layers)
    return list(layers[-1].parameters())
