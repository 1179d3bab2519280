"""Words to tokens and back: the template, what a method adds to it, and where the tokens of a text end."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.errors import ConfigError
from egrc_mega.types import Ask, Problem, token_array

PROBLEM = Problem(key="k", text="9 a - 3 = ?", answer="6")


@pytest.fixture(scope="module")
def renderer(base_model: Path) -> Renderer:
    return Renderer(load_tokenizer(base_model), "")


def text_of(renderer: Renderer, ask: Ask) -> str:
    return renderer.decode(renderer.prompt_ids(PROBLEM, ask))


def test_the_template_renders_one_user_message_with_the_generation_prompt(renderer: Renderer) -> None:
    ids = renderer.prompt_ids(PROBLEM)
    assert renderer.decode(ids) == "<bos> 9 a - 3 = ? <think>"
    assert ids.dtype == "int32"
    assert list(ids).count(renderer.tokenizer.bos_token_id) == 1


def test_the_instruction_follows_the_problem_and_the_suffix_follows_both(renderer: Renderer) -> None:
    instructed = Renderer(renderer.tokenizer, "check again")
    assert text_of(instructed, Ask(suffix=" Wait")) == "<bos> 9 a - 3 = ? check again Wait <think>"


def test_an_opening_stands_after_the_generation_prompt(renderer: Renderer) -> None:
    assert text_of(renderer, Ask(opening=" Hmm Wait")) == "<bos> 9 a - 3 = ? <think> Hmm Wait"


def test_a_system_text_is_a_message_before_the_problem(renderer: Renderer) -> None:
    assert text_of(renderer, Ask(system="check again")) == "<bos> check again 9 a - 3 = ? <think>"


def test_forced_text_becomes_the_begin_of_the_response(renderer: Renderer) -> None:
    assert renderer.decode(renderer.forced_ids(Ask(forced=" </think>"))) == " </think>"
    assert len(renderer.forced_ids(Ask())) == 0


def test_forced_text_without_tokens_is_refused_with_the_text(renderer: Renderer) -> None:
    with pytest.raises(ConfigError, match=r"begin with '</think>', for which the tokenizer of model.path has no token"):
        renderer.forced_ids(Ask(forced="</think>"))


def test_the_think_part_ends_with_the_last_end_of_thinking(renderer: Renderer) -> None:
    ids = renderer.encode(" 9 + 1 </think> 3 </think> \\boxed{ 3 }")
    assert renderer.think_length(ids) == 6
    assert renderer.think_length(renderer.encode(" 9 + 1")) is None


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token: characters of several bytes are cut."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = "{{ messages[0].content }}{% if add_generation_prompt %}:{% endif %}"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)


@pytest.mark.parametrize("text", ["abc", "aé漢z", "漢", "é", "🙂!", "a" * 50 + "é" * 20, ""])
def test_token_ends_say_where_each_token_ends_in_the_text(text: str) -> None:
    renderer = Renderer(bytes_tokenizer(), "")
    ids = renderer.encode(text)
    expected = [len(text.encode()[: n + 1].decode(errors="ignore")) for n in range(len(text.encode()))]
    assert renderer.token_ends(ids).tolist() == expected


def test_the_think_part_is_found_where_its_end_is_no_token_of_its_own() -> None:
    renderer = Renderer(bytes_tokenizer(), "")
    assert renderer.think_length(renderer.encode("é</think>7")) == 10
    assert renderer.think_length(renderer.encode("é7")) is None


def test_token_ends_of_words_that_bring_their_own_spaces(renderer: Renderer) -> None:
    ids = renderer.encode(" 9 a + 1 = 3 ; </think> \\boxed{ 3 }")
    text = renderer.decode(ids)
    ends = renderer.token_ends(ids)
    assert ends[-1] == len(text)
    assert [text[:end].split()[-1] for end in ends] == text.split()


def test_the_position_of_no_token_is_no_array_of_garbage(renderer: Renderer) -> None:
    assert renderer.token_ends(token_array([])).tolist() == []
