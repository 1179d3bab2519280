"""Compares what two checkpoints compute: logits of the same packed prompts, of whatever format each checkpoint is."""

import random
from pathlib import Path

import torch

from egrc_mega.convert.hf_logits import hf_logits
from egrc_mega.convert.source import HfSource, Source, open_source
from egrc_mega.policy import distributed
from egrc_mega.sections.policy import MegatronSection

# isort: split
from egrc_mega.policy.logits import packed_logits
from egrc_mega.policy.model import build_model, transformer_config
from egrc_mega.policy.weights import import_hf

LENGTHS = (7, 33, 1, 20)
SEED = 0


def largest_logit_difference(a: Path, b: Path, model: Path | None = None) -> float:
    """Largest absolute difference of the logits of four packed random prompts.

    A Hugging Face folder is computed by transformers, prompt by prompt; a Megatron checkpoint by megatron-core, packed.
    So two folders of different format are also computed by two implementations.
    """
    sources = [open_source(path, model) for path in (a, b)]
    rng = random.Random(SEED)
    vocab = sources[0].architecture.vocab_size
    prompts = [[rng.randrange(vocab) for _ in range(length)] for length in LENGTHS]
    x, y = (_logits(source, prompts) for source in sources)
    return float((x - y).abs().max())


def _logits(source: Source, prompts: list[list[int]]) -> torch.Tensor:
    if isinstance(source, HfSource):
        return hf_logits(source.path, prompts)
    section = MegatronSection(bf16=source.dtype() is torch.bfloat16)
    distributed.initialize(section, timeout_s=600)
    try:
        model = build_model(source.architecture, transformer_config(source.architecture, section))
        import_hf(model, source)
        return packed_logits(model, source.architecture, prompts).cpu()
    finally:
        distributed.finalize()
