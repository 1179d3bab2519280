"""Loads a model folder's tokenizer, checks it against the model, and says where responses stop."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from egrc_mega.convert.families.registry import eos_token_ids
from egrc_mega.convert.hf_config import HfConfig
from egrc_mega.errors import ModelError
from egrc_mega.json_file import read_object

Tokenizer = PreTrainedTokenizerBase
"""What every function here means by a tokenizer."""

THINK_TAGS = ("<think>", "</think>")
"""Added to many tokenizers without being called special."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "vocab.txt")


def has_tokenizer(model_path: Path) -> bool:
    """Whether a folder has a tokenizer's file; without one transformers makes an empty tokenizer, and says nothing."""
    return any((model_path / name).is_file() for name in TOKENIZER_FILES)


def load_tokenizer(model_path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder; no code of the folder is run.

    Raises:
        ModelError: no folder, no tokenizer in it, one that cannot be loaded, or one without a chat template.
    """
    if not model_path.is_dir():
        raise ModelError(f"model.path: {model_path} is not a folder; give a Hugging Face folder on this machine")
    if not has_tokenizer(model_path):
        raise ModelError(f"model.path: {model_path} holds no tokenizer; add its tokenizer.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers (Rust) raises plain Exception for a file it cannot parse
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"model.path: the tokenizer of {model_path} cannot be loaded: {reason[0]}") from error
    if not tokenizer.chat_template:
        raise ModelError(f"model.path: the tokenizer of {model_path} has no chat template; add chat_template.jinja")
    return tokenizer


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Texts that the tokenizer makes control tokens of, wherever they stand: in a problem they would end it."""
    added = tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special or token.content.strip() in THINK_TAGS}
    return frozenset(text for token in {*found, *tokenizer.all_special_tokens} if len(text := str(token).strip()) > 1)


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, model_path: Path) -> tuple[int, ...]:
    """End-of-sequence ids of the tokenizer, of generation_config.json and of config.json, ascending: servers obey all.

    Raises:
        ModelError: none names one, or a file is not JSON or states something else than ids.
    """
    path = model_path / "generation_config.json"
    generation = HfConfig(_read_json(path) if path.exists() else {}, path)
    found = {tokenizer.eos_token_id, *generation.token_ids("eos_token_id"), *eos_token_ids(model_path)}
    generation.check()
    ids = tuple(sorted(i for i in found if i is not None))
    if not ids:
        raise ModelError(f"model.path: {model_path} names no eos token; set eos_token_id in generation_config.json")
    return ids


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model_path: Path) -> None:
    """Refuse a tokenizer with ids that the model has no row for: such an id would kill a server.

    The other way round is usual: models are padded to a round number of rows.

    Raises:
        ModelError: naming both sizes; or config.json is missing, broken or without vocab_size.
    """
    vocab_size = _read_json(model_path / "config.json").get("vocab_size")
    if not isinstance(vocab_size, int):
        raise ModelError(f"model.path: config.json of {model_path} states no vocab_size (found {vocab_size!r})")
    if len(tokenizer) > vocab_size:
        raise ModelError(
            f"model.path: the tokenizer of {model_path} has {len(tokenizer)} tokens, config.json says vocab_size = "
            f"{vocab_size}; the folder mixes two models"
        )
    largest = max([*tokenizer.all_special_ids, *stop_token_ids(tokenizer, model_path)])
    if largest >= vocab_size:
        raise ModelError(
            f"model.path: special token {largest} of {model_path} is beyond vocab_size = {vocab_size} of config.json; "
            f"the folder mixes two models"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        reason = str(error) if str(error).startswith("must hold") else f"cannot be read as JSON: {error}"
        raise ModelError(f"model.path: {path} {reason}") from error
