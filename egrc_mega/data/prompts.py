"""Prompts by position: what a run sees at any step is a pure function of the seed, so the cursor is one integer."""

import random
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from egrc_mega.config.schema import DataSection
from egrc_mega.data.chat import render_prompt
from egrc_mega.data.reader import Problem, read_problems
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Prompt


class PromptSource:
    """The training prompts, epoch after epoch."""

    def __init__(self, section: DataSection, tokenizer: PreTrainedTokenizerBase, seed: int, quarantine: Path) -> None:
        """Read the file.

        Raises:
            DataError: see `reader.read_problems`.
        """
        self.section, self.tokenizer, self.seed = section, tokenizer, seed
        self.problems = read_problems(section.train, section, quarantine)
        self._orders: dict[int, list[int]] = {}

    def take(self, position: int, count: int) -> list[Prompt]:
        """Prompts number `position` to `position + count - 1` since the start of the run."""
        return [self._prompt(*divmod(p, len(self.problems))) for p in range(position, position + count)]

    def _prompt(self, epoch: int, place: int) -> Prompt:
        problem = self.problems[self._order(epoch)[place]]
        suffix = f"#{epoch}" if epoch else ""
        return _render(problem, f"{self.section.train.name}:{problem.line}{suffix}", self.section, self.tokenizer)

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            order = list(range(len(self.problems)))
            if self.section.shuffle:
                random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch]


def load_prompts(
    path: Path, section: DataSection, tokenizer: PreTrainedTokenizerBase, limit: int, quarantine: Path
) -> list[Prompt]:
    """The first `limit` problems of a file in its order, as evaluation wants them."""
    problems = read_problems(path, section, quarantine)[:limit]
    return [_render(problem, f"{path.name}:{problem.line}", section, tokenizer) for problem in problems]


def _render(problem: Problem, name: str, section: DataSection, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    token_ids = render_prompt(tokenizer, problem.text, section.instruction)
    return Prompt(id=name, text=problem.text, token_ids=token_ids, answer=problem.answer)
