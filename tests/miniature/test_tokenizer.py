"""The forty words survive saving, loading and decoding, the way a Qwen2 folder's tokenizer is loaded."""

import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from egrc_mega.grading.extract import extract_answer, is_well_formed
from egrc_mega.miniature.task import draw_problem, verbose_trace
from egrc_mega.miniature.tokenizer import VOCABULARY, write_tokenizer

PROTOTYPE = (
    "_ <bos> <eos> 0 1 2 3 4 5 6 7 8 9 a b c d e f g + - * = ; ? <think> </think> \\boxed{ } "
    "Then So Next Therefore Wait Hmm Alternatively check again <unk>"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": 40}))
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_there_are_forty_tokens_in_the_prototypes_order(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer) == 40
    assert " ".join(token.strip() for token in VOCABULARY) == PROTOTYPE
    assert tokenizer.convert_ids_to_tokens(list(range(40))) == list(VOCABULARY)
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert special == (0, 1, 2, 39)


def test_every_word_of_a_trace_is_one_token_and_decoding_gives_the_text_back(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rng = random.Random(0)
    for _ in range(200):
        problem = draw_problem(rng)
        for text in (f" {problem.text()} <think>", f" {verbose_trace(problem, rng)}"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert len(ids) == len(text.split()) and tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
            assert tokenizer.decode(ids, skip_special_tokens=True) == text, "no word vanishes as a special token"


def test_a_decoded_answer_is_found_by_the_grader(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = [*tokenizer.encode(" a 1 + 2 = 3 ; </think> \\boxed{ 3 }", add_special_tokens=False), tokenizer.eos_token_id]
    text = tokenizer.decode(ids)
    assert text == " a 1 + 2 = 3 ; </think> \\boxed{ 3 }<eos>"
    assert extract_answer(text) == "3" and is_well_formed(text, finished=True)


def test_the_chat_template_opens_the_thinking_and_closes_an_assistants_turn(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    user = {"role": "user", "content": "9 a - 3 = ?"}
    assistant = {"role": "assistant", "content": "a 9 - 3 = 6 ; </think> \\boxed{ 6 }"}
    opened = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    assert opened == "<bos> 9 a - 3 = ? <think>"
    whole = tokenizer.apply_chat_template([user, assistant], tokenize=False)
    assert whole == "<bos> 9 a - 3 = ? a 9 - 3 = 6 ; </think> \\boxed{ 6 }<eos>"


def test_other_words_vanish_because_qwen2s_tokenizer_knows_no_unknown(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.encode(" a é 再 zebra + 1", add_special_tokens=False)
    assert tokenizer.decode(ids) == " a + 1"


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_tokenizer(tmp_path / name)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and "tokenizer.json" in one
