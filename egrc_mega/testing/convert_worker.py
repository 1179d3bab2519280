"""What the ranks of the converter's tests do: load a checkpoint at a layout, compute logits, write it all out again."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from egrc_mega.checkpoint.store import load_model, save_model
from egrc_mega.convert.hf_folder import write_folder
from egrc_mega.policy import distributed
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.logits import packed_logits
from egrc_mega.sections.policy import MegatronSection, PolicySection

PROMPTS = ([3, 1, 4, 1, 5, 9, 2], list(range(33)), [7], list(range(40, 20, -1)))
"""Packed into one forward pass: an odd length, a long one, a single token."""


@dataclass(frozen=True, slots=True)
class Job:
    """One model at one layout."""

    source: Path
    """Hugging Face folder."""
    other: Path
    """A folder of the same shapes with other values: what a load must overwrite."""
    checkpoint: Path
    """Megatron checkpoint of `source`, converted without megatron."""
    out: Path
    """Receives logits.safetensors, exported/ (Hugging Face, from the live model) and saved/ (by megatron itself)."""
    megatron: dict[str, Any] = field(default_factory=dict)
    vocab: int = 509


def run_jobs(jobs: list[Job]) -> None:
    """Every job in turn; the world is split anew for each."""
    distributed.initialize(MegatronSection(), timeout_s=60)
    for job in jobs:
        section = MegatronSection(**job.megatron)
        distributed.split_world(section, timeout_s=60)
        prompts = [[token % job.vocab for token in prompt] for prompt in PROMPTS]
        direct = Policy(job.source, section, PolicySection())
        logits = {"direct": packed_logits(direct.pieces, direct.architecture, prompts)}
        loaded = Policy(job.other, section, PolicySection())
        load_model(job.checkpoint, loaded)
        logits["loaded"] = packed_logits(loaded.pieces, loaded.architecture, prompts)
        saved = job.out / "saved"
        saved.mkdir(parents=True, exist_ok=True)
        save_model(saved, loaded)
        tensors = loaded.export_hf()
        if distributed.is_rank_0():
            save_file({name: tensor.contiguous() for name, tensor in logits.items()}, job.out / "logits.safetensors")
            write_folder(
                job.out / "exported",
                tensors,
                architecture=loaded.architecture,
                source=job.source,
                dtype=loaded.dtype,
            )
        for _name, _tensor in tensors:
            pass  # the other ranks take part in the gathering
    distributed.finalize()
