"""What only rank 0 does: prompts, servers, environment, graders, evaluation."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace

from egrc_mega.config.schema import Config, EnvironmentSection
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.data.prompts import PromptSource
from egrc_mega.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer, stop_token_ids
from egrc_mega.evaluation.evaluator import Evaluator
from egrc_mega.grading.extract import extract_answer, is_well_formed
from egrc_mega.grading.pool import GraderPool
from egrc_mega.methods.base import Method
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.segments import Environment
from egrc_mega.rollout.start.process import first_version
from egrc_mega.run_folder import RunFolder
from egrc_mega.training.accounting import BESIDE
from egrc_mega.training.collection import Collected, Collector, Position
from egrc_mega.training.schedule import Step
from egrc_mega.types import Completion, FinishReason, Prompt, RolloutRequest, Sample


class Coordinator:
    """Turns steps into graded groups, and has the evaluator."""

    def __init__(
        self, config: Config, folder: RunFolder, stack: ExitStack, note: Callable[[str], None], *, trains: bool = True
    ) -> None:
        """Read the data and start servers and graders; `stack` stops them. `note` gets a line about lost servers.

        Args:
            trains: without, no training data is read, and nothing can be collected.

        Raises:
            EgrcError: data, model folder or server cannot be used.
        """
        self.config, self.folder = config, folder
        model_path = config.model.path
        self.tokenizer = load_tokenizer(model_path)
        check_vocabulary(self.tokenizer, model_path)
        self.stop_token_ids = stop_token_ids(self.tokenizer, model_path)
        if trains:
            self.prompts = PromptSource(config.data, self.tokenizer, config.run.seed, folder.quarantine)
        self.evaluator = Evaluator(config, self.tokenizer, self.stop_token_ids, folder.path, self.generate, self.judge)
        self.environment = build_environment(config.rollout.environment, self.tokenizer)
        self.graders = stack.enter_context(GraderPool(config.grading.num_workers, config.grading.timeout_s))
        vocab_size = read_architecture(model_path).vocab_size
        fleet = Fleet.start(config.rollout, model_path, first_version(), folder.logs, vocab_size=vocab_size, note=note)
        self.fleet = stack.enter_context(fleet)
        self.position = Position(0, ())
        self._ahead: Future[Collected] | None = None
        if trains:
            self.collector = Collector(
                config.rollout,
                self.prompts,
                self.fleet,
                self.environment,
                self.judge,
                config.run.seed,
                self.stop_token_ids,
            )

    def collect(self, step: Step, method: Method) -> Collected:
        """The step's prompts, sampled and graded: those that were sampled ahead, else now."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            collected = self.collector.collect(step, method, self.position)
        else:
            started = time.monotonic()
            collected = ahead.result()
            times = {"rollout": time.monotonic() - started, "grade": 0.0}
            collected = replace(collected, times=times | {BESIDE: sum(collected.times.values())})
        self.position = collected.position
        return collected

    def sample_ahead(self, step: Step, method: Method) -> None:
        """Begin the next step's batch with the weights that the servers have, in a thread of its own."""
        future: Future[Collected] = Future()
        position = self.position

        def work() -> None:
            try:
                future.set_result(self.collector.collect(step, method, position))
            except BaseException as error:
                future.set_exception(error)

        # a daemon: when the run ends early nobody waits for it
        threading.Thread(target=work, name="ahead", daemon=True).start()
        self._ahead = future

    def generate(self, requests: Sequence[RolloutRequest]) -> list[Completion]:
        """Completions in the order of the requests."""
        return self.fleet.generate(requests, self.environment)

    def judge(self, pairs: Sequence[tuple[Prompt, Completion]]) -> list[Sample]:
        """Decode and grade completions, in order."""
        texts = [str(self.tokenizer.decode(completion.output_ids.tolist())) for _prompt, completion in pairs]
        answers = [extract_answer(text) for text in texts]
        golds = [prompt.answer for prompt, _completion in pairs]
        grades = self.graders.grade(list(zip(answers, golds, strict=True)))
        return [
            Sample(
                prompt=prompt,
                completion=completion,
                text=text,
                grade=grade,
                well_formed=is_well_formed(text, completion.finish_reason is FinishReason.STOP),
            )
            for (prompt, completion), text, grade in zip(pairs, texts, grades, strict=True)
        ]


def build_environment(section: EnvironmentSection | None, tokenizer: Tokenizer) -> Environment | None:
    """The environment of a configuration, or None when the policy writes every token."""
    if section is None:
        return None
    from egrc_mega.miniature.environment import NoisyArithmetic

    return NoisyArithmetic(tokenizer, section.probability)
