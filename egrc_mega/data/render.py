"""From words to tokens and back: prompts through the model's own chat template, and where the tokens of a text end."""

from copy import copy
from datetime import date
from functools import lru_cache
from typing import Self

import numpy as np
from transformers import PreTrainedTokenizerBase

from egrc_mega.data.template import END_OF_THINKING, ChatTemplate, thinking_at_end
from egrc_mega.errors import ConfigError
from egrc_mega.types import Ask, IntArray, Problem

PLAIN = Ask()
ANY_DAY = date(2024, 7, 26)
"""What templates that print a date are told where no configuration says otherwise."""
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer makes of the first bytes of a character."""


class Renderer:
    """Turns a problem and what a method asks of it into token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, instruction: str, today: date = ANY_DAY) -> None:
        """Prove the tokenizer's chat template. See `with_instruction` for what follows every problem.

        Raises:
            ModelError: the template cannot be used.
        """
        self.tokenizer, self.instruction = tokenizer, instruction
        self.template = ChatTemplate(tokenizer, today)
        self._render = lru_cache(maxsize=1024)(self.template.render)
        vocabulary = tokenizer.get_vocab()
        self._ends_thinking = [i for token, i in vocabulary.items() if token.strip() == END_OF_THINKING]

    def with_instruction(self, instruction: str) -> Self:
        """The same template with another text after every problem: after one space, or the line ends it begins with."""
        other = copy(self)
        other.instruction = instruction
        return other

    def prompt_ids(self, problem: Problem, ask: Ask = PLAIN) -> IntArray:
        """[P] int32: system text, problem, instruction and suffix with the generation prompt, then the opening.

        Raises:
            ModelError: the chat template fails.
        """
        system = problem.system if ask.system is None else ask.system
        rendered = self._render(f"{problem.text}{self._after_problem()}{ask.suffix}", system)
        # the template has written the special tokens already
        return self.encode(f"{rendered}{ask.opening}")

    def _after_problem(self) -> str:
        text = self.instruction.strip(" ")
        return text if not text or text.startswith("\n") else f" {text}"

    def thinks(self, prompt_ids: IntArray) -> bool:
        """Whether a prompt ends within a think part, so that the response must close it before it answers."""
        text = self.decode(prompt_ids)
        # what a system text or a problem says of the tags opens nothing
        begin = text.rfind(self.template.proof.generation_prompt)
        return thinking_at_end(text[max(begin, 0) :]) == "open"

    def forced_ids(self, ask: Ask) -> IntArray:
        """[F] int32: the begin of the response that the method forces.

        Raises:
            ConfigError: the text has no tokens.
        """
        ids = self.encode(ask.forced)
        if ask.forced and not self.decode(ids).strip():
            raise ConfigError(
                f"stages: the method forces responses to begin with {ask.forced!r}, for which the tokenizer of "
                f"model.path has no token; give a text of its vocabulary (a space "
                f"before a word may belong to its token)"
            )
        return ids

    def encode(self, text: str) -> IntArray:
        """[N] int32: the text's tokens, no special tokens added."""
        return np.asarray(self.tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)

    def decode(self, output_ids: IntArray) -> str:
        """The text of a response, special tokens included."""
        return str(self.tokenizer.decode(output_ids.tolist()))

    def think_length(self, output_ids: IntArray) -> int | None:
        """Tokens up to the last `</think>`, that one included; None where there is none."""
        if len(self._ends_thinking) == 1:
            found = np.flatnonzero(output_ids == self._ends_thinking[0])
            return int(found[-1]) + 1 if len(found) else None
        at = self.decode(output_ids).rfind(END_OF_THINKING)
        if at < 0:
            return None
        return int(np.searchsorted(self.token_ends(output_ids), at + len(END_OF_THINKING))) + 1

    def token_ends(self, output_ids: IntArray) -> IntArray:
        """[O] int32: where in the decoded text each token ends; a token that ends within a character ends before it.

        Decodes a window that begins at the last token known to end a character, so the time is linear in the tokens.
        """
        ids = output_ids.tolist()
        ends = np.empty(len(ids), dtype=np.int32)
        begin = settled = 0
        known = ""
        for i in range(len(ids)):
            text = str(self.tokenizer.decode(ids[begin : i + 1]))
            ends[i] = settled + len(text.rstrip(UNFINISHED)) - len(known)
            if not text.endswith(UNFINISHED):
                settled = int(ends[i])
                # one token stays as context, for some tokenizers join words by what stands before
                begin, known = i, str(self.tokenizer.decode(ids[i : i + 1]))
                if UNFINISHED in known:  # the last bytes of a character: no text by itself
                    begin, known = i + 1, ""
        return ends
