"""The miniature's tokenizer: forty words, saved so that `AutoTokenizer` loads it like any Qwen2 tokenizer.

Transformers makes a byte-level Qwen2Tokenizer of every folder whose model is a Qwen2, so the words are added tokens of
one. Each carries its leading space (as in byte-level vocabularies), so that decoding gives readable text. Any other
text vanishes: such a tokenizer never gives `<unk>`, which only fills the last place.
"""

from pathlib import Path

from transformers import AddedToken, Qwen2Tokenizer

from egrc_mega.miniature.task import CHECK_WORDS, MARKS, STEP_WORDS

PAD, BOS, EOS, UNKNOWN = "_", "<bos>", "<eos>", "<unk>"
WORDS = (
    *"0123456789",
    *MARKS,
    *"+-*=;?",
    *("<think>", "</think>", "\\boxed{", "}"),
    *STEP_WORDS,
    *CHECK_WORDS,
    *("check", "again"),
)
VOCABULARY = (PAD, BOS, EOS, *(f" {word}" for word in WORDS), UNKNOWN)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ ' ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <think>' }}{% endif %}"
)


def write_tokenizer(folder: Path) -> None:
    """Save the tokenizer and its chat template into a model folder."""
    ids = {token: i for i, token in enumerate(VOCABULARY)}
    tokenizer = Qwen2Tokenizer(
        vocab=ids, merges=[], pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN, model_max_length=512
    )
    tokenizer.add_tokens([AddedToken(f" {word}", normalized=False, special=False) for word in WORDS])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
