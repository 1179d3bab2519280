"""A model folder's tokenizer: what is refused, and where responses stop."""

import json
from pathlib import Path

import pytest

from egrc_mega.data.tokenizer import check_vocabulary, load_tokenizer, stop_token_ids
from egrc_mega.errors import ModelError
from egrc_mega.miniature.tokenizer import VOCABULARY, write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    write_tokenizer(path)
    _configure(path, len(VOCABULARY))
    return path


def _configure(folder: Path, vocab_size: object) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": vocab_size}))


def _state_eos(folder: Path, eos: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))


def test_a_whole_folder_loads(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, folder)
    assert tokenizer.encode(" 9 a", add_special_tokens=False) == [VOCABULARY.index(" 9"), VOCABULARY.index(" a")]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.path: .*nowhere is not a folder; give a Hugging Face folder"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_folder_without_tokenizer_is_refused_rather_than_given_an_empty_one(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer; add its tokenizer\.json"):
        load_tokenizer(folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_broken_file_is_one_line_that_names_the_folder(folder: Path, file: str) -> None:
    (folder / file).write_text('{"torn')
    with pytest.raises(ModelError, match=f"the tokenizer of {folder} cannot be loaded") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_chat_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load_tokenizer(folder)


@pytest.mark.parametrize(("stated", "ids"), [(None, (2,)), (2, (2,)), (5, (2, 5)), ([7, 2, 5], (2, 5, 7))])
def test_responses_stop_at_every_eos_that_the_folder_names(folder: Path, stated: object, ids: tuple[int, ...]) -> None:
    assert stop_token_ids(load_tokenizer(folder), folder) == (2,), "without generation_config.json"
    _state_eos(folder, stated)
    assert stop_token_ids(load_tokenizer(folder), folder) == ids


def test_a_folder_without_any_eos_is_refused(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match=r"names no eos token; set eos_token_id in generation_config\.json"):
        stop_token_ids(tokenizer, folder)


def test_more_tokens_than_rows_are_refused_and_both_numbers_named(folder: Path) -> None:
    _configure(folder, 39)
    with pytest.raises(ModelError, match=r"has 40 tokens, config\.json says vocab_size = 39"):
        check_vocabulary(load_tokenizer(folder), folder)
    _configure(folder, 64)
    check_vocabulary(load_tokenizer(folder), folder)


def test_a_special_id_beyond_the_rows_is_refused_and_both_numbers_named(folder: Path) -> None:
    _state_eos(folder, [2, 40])
    with pytest.raises(ModelError, match=r"special token 40 of .* is beyond vocab_size = 40"):
        check_vocabulary(load_tokenizer(folder), folder)


@pytest.mark.parametrize("vocab_size", [None, "40"])
def test_a_config_without_vocab_size_is_refused(folder: Path, vocab_size: object) -> None:
    tokenizer = load_tokenizer(folder)
    _configure(folder, vocab_size)
    with pytest.raises(ModelError, match="states no vocab_size"):
        check_vocabulary(tokenizer, folder)


@pytest.mark.parametrize(
    ("content", "reason"), [('{"torn', "cannot be read as JSON"), ("[]", "must hold a JSON object")]
)
def test_a_broken_config_is_named(folder: Path, content: str, reason: str) -> None:
    tokenizer = load_tokenizer(folder)
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"config\.json {reason}"):
        check_vocabulary(tokenizer, folder)
