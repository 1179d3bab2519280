"""The part of a diagnosis that asks the model: what it says of the tokens of a bounded number of responses."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from egrc_mega.convert.hf_model import last_block, load_hf_model
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import check_vocabulary, load_tokenizer
from egrc_mega.diagnosis.gradients import DrawnTokens, gradient_sizes
from egrc_mega.diagnosis.measured import Measured, TokenTable
from egrc_mega.diagnosis.question import TokenSettings
from egrc_mega.diagnosis.token_classes import classes_of
from egrc_mega.diagnosis.token_figures import FloatArray, token_figures
from egrc_mega.errors import DataError
from egrc_mega.evaluation.responses import SampledResponse
from egrc_mega.types import IntArray, Problem

OPENS_THINKING = "<think>"


class TokenPart:
    """A model with its tokenizer, and what it has said so far."""

    def __init__(self, folder: Path, settings: TokenSettings, instruction: str = "") -> None:
        """Load the model in float32 on the CPU; `instruction`: what follows every problem in the prompt.

        Raises:
            ModelError: the folder holds no model or tokenizer that can be used, or those of two models.
        """
        tokenizer = load_tokenizer(folder)
        check_vocabulary(tokenizer, folder)
        self.folder, self.settings = folder, settings
        self.renderer = Renderer(tokenizer, instruction)
        self.model = load_hf_model(folder)
        self.table = TokenTable()
        self.num_cut = 0
        self._asked: list[tuple[IntArray, IntArray]] = []

    @property
    def is_full(self) -> bool:
        """True when as many tokens have been looked at as may be."""
        return self.table.num_tokens >= self.settings.max_tokens

    def take(self, response: SampledResponse) -> Measured:
        """Measure one more response.

        Raises:
            DataError: its tokens are not of this model's tokenizer.
            ModelError: the chat template fails.
        """
        problem = Problem(key=response.problem_id, text=response.prompt, answer="")
        prompt_ids = self.renderer.prompt_ids(problem)
        whole_ids = self._output_ids(response)
        limit = int(self.model.config.max_position_embeddings) - len(prompt_ids)
        num = max(0, min(len(whole_ids), limit, self.settings.max_tokens - self.table.num_tokens))
        self.num_cut += num < len(whole_ids)
        measured = self._measured(response, prompt_ids, whole_ids, num)
        self.table.add(measured)
        self._asked.append((prompt_ids, measured.output_ids))
        return measured

    def _output_ids(self, response: SampledResponse) -> IntArray:
        if response.output_ids is None:
            return self.renderer.encode(response.text)
        ids, size = response.output_ids, int(self.model.config.vocab_size)
        if len(ids) and not (
            int(ids.min()) >= 0 and int(ids.max()) < size and self.renderer.decode(ids) == response.text
        ):
            raise DataError(
                f"{response.place}: the tokenizer of {self.folder} reads its tokens as another text than was sampled; "
                f"give the folder of the model that sampled it"
            )
        return ids

    def _measured(self, response: SampledResponse, prompt_ids: IntArray, whole_ids: IntArray, num: int) -> Measured:
        output_ids = whole_ids[:num]
        text, ends = self.renderer.decode(output_ids), self.renderer.token_ends(output_ids)
        classes, is_redundant = classes_of(text, ends, output_ids, self.renderer.tokenizer.all_special_ids)
        think_length = self.renderer.think_length(whole_ids)
        if think_length is None:
            thinks = self.renderer.thinks(prompt_ids) or OPENS_THINKING in response.text
            think_length = len(whole_ids) if thinks else 0
        return Measured(
            text=text,
            token_ends=ends,
            output_ids=output_ids,
            sampled=np.ones(num, np.bool_) if response.sampled is None else response.sampled[:num],
            figures=token_figures(self.model, prompt_ids, output_ids, self.settings.batch_tokens),
            classes=classes,
            is_redundant=is_redundant,
            is_thinking=np.arange(num) < think_length,
            verdict=response.verdict.value if response.verdict else None,
        )

    def gradients(self, note: Callable[[str], None]) -> dict[str, tuple[IntArray, FloatArray]]:
        """Rows of the table that were drawn, and their tokens' gradient sizes: at the last block, at all parameters."""
        settings = self.settings
        block, every = last_block(self.model), list(self.model.parameters())
        wanted = {"last_block": (settings.num_block_gradients, block), "full": (settings.num_full_gradients, every)}
        found = {}
        for name, (num, parameters) in wanted.items():
            note(f"gradients of {num} tokens: {name.replace('_', ' ')}")
            drawn = list(self._drawn(num))
            rows = [row for each in drawn for row in each.rows]
            sizes = [gradient_sizes(self.model, each, parameters) for each in drawn]
            found[name] = np.array(rows, np.int32), np.concatenate([np.zeros(0), *sizes])
        return found

    def _drawn(self, num: int) -> Iterator[DrawnTokens]:
        """Tokens drawn at random, of all whose text up to them fits into one batch: the same every time."""
        eligible = self.table.eligible(
            [max(0, self.settings.batch_tokens - len(prompt_ids)) for prompt_ids, _output_ids in self._asked]
        )
        chosen = np.sort(np.random.default_rng(0).permutation(len(eligible))[:num])
        rows = eligible[chosen]
        for index in np.unique(self.table.response_of(rows)).tolist():
            own = rows[self.table.response_of(rows) == index]
            places = own - self.table.begins[index]
            prompt_ids, output_ids = self._asked[index]
            yield DrawnTokens(prompt_ids, output_ids, tuple(places.tolist()), tuple(own.tolist()))
