"""`egrc convert`: a live model in between, in one process. Both directions use the family's table."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from egrc_mega.checkpoint.store import load_model, save_model
from egrc_mega.config.schema import MegatronSection, PolicySection
from egrc_mega.convert.hf_folder import write_folder
from egrc_mega.errors import CheckpointError, ModelError
from egrc_mega.policy import distributed
from egrc_mega.policy.engine import Policy


def hf_to_megatron(source: Path, target: Path) -> None:
    """Write a torch_dist checkpoint of the weights; it loads at any parallel layout.

    Raises:
        ModelError: the source cannot be used, or the target exists.
    """
    _require_new(target)
    with _policy(source) as policy:
        partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_model(partial, policy)
        partial.rename(target)


def megatron_to_hf(source: Path, target: Path, model: Path) -> None:
    """Write a Hugging Face folder from a checkpoint's weights and `model`'s config, tokenizer and dtype.

    Raises:
        CheckpointError: the source is no checkpoint. ModelError: the target exists, or `model` cannot be used.
    """
    _require_new(target)
    if not (source / "metadata.json").is_file():
        raise CheckpointError(f"{source} is no Megatron checkpoint (no metadata.json); give one step's folder")
    with _policy(model) as policy:
        load_model(source, policy)
        dtype = getattr(torch, policy.architecture.dtype)
        write_folder(target, policy.export_hf(), source=model, dtype=dtype)


@contextmanager
def _policy(model: Path) -> Iterator[Policy]:
    section = MegatronSection()
    distributed.initialize(section, timeout_s=600)
    try:
        yield Policy(model, section, PolicySection())
    finally:
        distributed.finalize()


def _require_new(target: Path) -> None:
    if target.exists():
        raise ModelError(f"{target} exists already; choose another folder")
