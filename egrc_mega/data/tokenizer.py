"""Loads a model folder's tokenizer and says where responses stop."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from egrc_mega.errors import ModelError

Tokenizer = PreTrainedTokenizerBase


def load_tokenizer(model_path: Path) -> Tokenizer:
    """The tokenizer of a local folder; no code of the folder is run.

    Raises:
        ModelError: no tokenizer, or none with a chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"model.path: no tokenizer can be loaded from {model_path}: {reason}") from error
    if not tokenizer.chat_template:
        raise ModelError(f"model.path: the tokenizer of {model_path} has no chat template; add chat_template.jinja")
    return tokenizer


def stop_token_ids(tokenizer: Tokenizer, model_path: Path) -> tuple[int, ...]:
    """End-of-sequence ids of the tokenizer and of generation_config.json, ascending.

    Raises:
        ModelError: neither names one.
    """
    found = {tokenizer.eos_token_id, *_as_list(_read_json(model_path / "generation_config.json").get("eos_token_id"))}
    ids = tuple(sorted(i for i in found if i is not None))
    if not ids:
        raise ModelError(f"model.path: {model_path} names no eos token; set it in generation_config.json")
    return ids


def check_vocabulary(tokenizer: Tokenizer, model_path: Path) -> None:
    """Refuse a tokenizer with ids that the model has no row for: such an id would kill a server.

    Raises:
        ModelError: naming both sizes.
    """
    vocab_size = _read_json(model_path / "config.json").get("vocab_size", 0)
    if len(tokenizer) > vocab_size:
        raise ModelError(
            f"model.path: the tokenizer of {model_path} has {len(tokenizer)} tokens, config.json says vocab_size = "
            f"{vocab_size}; the folder mixes two models"
        )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
