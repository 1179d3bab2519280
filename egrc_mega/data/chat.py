"""Renders a problem through the model's own chat template."""

from transformers import PreTrainedTokenizerBase


def render_prompt(tokenizer: PreTrainedTokenizerBase, text: str, instruction: str) -> tuple[int, ...]:
    """Token ids of one user message (the problem, a space, the instruction) with the generation prompt."""
    content = f"{text} {instruction}" if instruction else text
    messages = [{"role": "user", "content": content}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    # the template has written the special tokens already
    return tuple(tokenizer.encode(rendered, add_special_tokens=False))
