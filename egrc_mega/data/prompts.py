"""Prompts by position: what a run sees at any step is a pure function of the seed, so the cursor is one integer."""

import random
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from egrc_mega.config.schema import DataSection
from egrc_mega.data.chat import render_prompt
from egrc_mega.data.reader import Problem, read_problems
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Prompt, token_array


class PromptSource:
    """The training prompts, epoch after epoch."""

    def __init__(
        self, section: DataSection, tokenizer: PreTrainedTokenizerBase, seed: int, quarantine_path: Path
    ) -> None:
        """Read the file.

        Raises:
            DataError: see `reader.read_problems`.
        """
        self.section, self.tokenizer, self.seed = section, tokenizer, seed
        self.problems = read_problems(section.train, section, quarantine_path)
        self._latest: tuple[int, list[int]] = (-1, [])

    def take(self, position: int, count: int) -> list[Prompt]:
        """Prompts number `position` to `position + count - 1` since the start of the run, whatever was taken before."""
        return [self._prompt(*divmod(p, len(self.problems))) for p in range(position, position + count)]

    def _prompt(self, epoch: int, place: int) -> Prompt:
        problem = self.problems[self._order(epoch)[place]]
        suffix = f"#{epoch}" if epoch else ""
        return _render(problem, f"{self.section.train.name}:{problem.line}{suffix}", self.section, self.tokenizer)

    def _order(self, epoch: int) -> list[int]:
        if self._latest[0] != epoch:
            order = list(range(len(self.problems)))
            if self.section.shuffle:
                random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
            self._latest = (epoch, order)
        return self._latest[1]


def load_prompts(
    path: Path, section: DataSection, tokenizer: PreTrainedTokenizerBase, limit: int, quarantine_path: Path
) -> list[Prompt]:
    """The first `limit` good problems of a file in its order (all of them when it has fewer), as evaluation wants them.

    Raises:
        DataError: see `reader.read_problems`.
    """
    problems = read_problems(path, section, quarantine_path)[:limit]
    return [_render(problem, f"{path.name}:{problem.line}", section, tokenizer) for problem in problems]


def _render(problem: Problem, name: str, section: DataSection, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    token_ids = token_array(render_prompt(tokenizer, problem.text, section.instruction))
    return Prompt(id=name, text=problem.text, token_ids=token_ids, answer=problem.answer)
