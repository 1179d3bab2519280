"""Servers, tokenizer and graders: what turns requests into graded samples. It knows no training data."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from egrc_mega.config.config import Config
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import Tokenizer, check_vocabulary, load_tokenizer, stop_token_ids
from egrc_mega.evaluation.evaluator import Evaluator, Progress, no_progress
from egrc_mega.grading.extract import is_well_formed
from egrc_mega.grading.grader import GRADERS
from egrc_mega.grading.pool import GraderPool
from egrc_mega.grading.worker import Budget
from egrc_mega.methods.method import Need
from egrc_mega.rollout.environment import Environment
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.start.process import first_version
from egrc_mega.run_folder import RunFolder
from egrc_mega.sections.rollout import EnvironmentSection
from egrc_mega.types import Completion, Drawn, FinishReason, RolloutRequest, Sample, Verdict


class Serving:
    """What training, `egrc eval`, studies and diagnoses share."""

    def __init__(
        self,
        config: Config,
        renderer: Renderer,
        folder: RunFolder,
        stack: ExitStack,
        note: Callable[[str], None],
        progress: Progress = no_progress,
    ) -> None:
        """Read the benchmark, start graders and begin to start servers; `stack` stops them. `note` gets a line about
        lost servers, and `progress` shows how an evaluation goes on.

        Servers load the model meanwhile: `fleet.wait_until_ready` before they are asked.

        Raises:
            EgrcError: the model folder, the benchmark or a server cannot be used.
        """
        model_path = config.model.path
        self.renderer, self.tokenizer = renderer, renderer.tokenizer
        self.stop_token_ids = stop_token_ids(self.tokenizer, model_path)
        self.environment = build_environment(config.rollout.environment, self.tokenizer)
        # before a server starts, for this may refuse the benchmark
        self.evaluator = Evaluator(
            config, renderer, self.stop_token_ids, folder.path, self.generate, self.judge, progress
        )
        grading = config.grading
        grader = GRADERS[grading.grader.grader](grading.grader)
        pool = GraderPool(grading.num_workers, Budget(grading.cpu_s, grading.timeout_s), grader, config.plugins)
        self.graders = stack.enter_context(pool)
        vocab_size = read_architecture(model_path).vocab_size
        fleet = Fleet.start(
            config.rollout,
            model_path,
            first_version(),
            folder.logs,
            vocab_size=vocab_size,
            note=note,
            cache=config.sync.cache,
            waits=False,
        )
        self.fleet = stack.enter_context(fleet)

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        tell: Callable[[Sequence[Completion]], None] = lambda completions: None,
    ) -> list[Completion]:
        """Completions in the order of the requests; `tell` gets them as they come.

        Raises:
            RolloutError: a request was lost too often, or refused.
        """
        return self.fleet.generate(requests, self.environment, tell)

    def judge(self, drawn: Sequence[Drawn], needs: frozenset[Need]) -> list[Sample]:
        """Decode and grade completions, in order, and measure on them what `needs` names."""
        texts = [self.renderer.decode(one.completion.output_ids) for one in drawn]
        prompts = {one.request.prompt_ids.tobytes(): one.request.prompt_ids for one in drawn}
        opened = {content: self.renderer.thinks(ids) for content, ids in prompts.items()}
        thinks = [opened[one.request.prompt_ids.tobytes()] for one in drawn]
        verdicts = _verdicts(self.graders, drawn, texts, thinks)
        return [
            Sample(
                problem=one.problem,
                ask=one.ask,
                prompt_ids=one.request.prompt_ids,
                completion=one.completion,
                text=text,
                grade=verdict.grade,
                reason=verdict.reason,
                well_formed=is_well_formed(text, one.completion.finish_reason is FinishReason.STOP, thinks_here),
                num_forced=len(one.request.forced_ids),
                think_length=self.renderer.think_length(one.completion.output_ids),
                token_ends=self.renderer.token_ends(one.completion.output_ids) if "token_ends" in needs else None,
            )
            for one, text, thinks_here, verdict in zip(drawn, texts, thinks, verdicts, strict=True)
        ]


def open_renderer(config: Config) -> Renderer:
    """The model folder's tokenizer and chat template, proved.

    Raises:
        ModelError: one of them cannot be used.
    """
    tokenizer = load_tokenizer(config.model.path)
    check_vocabulary(tokenizer, config.model.path)
    return Renderer(tokenizer, config.data.instruction, config.data.template_date)


def _verdicts(
    graders: GraderPool, drawn: Sequence[Drawn], texts: Sequence[str], thinks: Sequence[bool]
) -> list[Verdict]:
    """Of the grader, or of the pool where it found an answer. `thinks`: which prompts end within an open `<think>`."""
    grader = graders.grader
    answers = [grader.extract(text, in_prompt) for text, in_prompt in zip(texts, thinks, strict=True)]
    pairs = [(a, one.problem.answer, one.problem.hints) for a, one in zip(answers, drawn, strict=True)]
    return [
        grader.without_answer(text, in_prompt) if answer is None else verdict
        for text, in_prompt, answer, verdict in zip(texts, thinks, answers, graders.grade(pairs), strict=True)
    ]


def build_environment(section: EnvironmentSection | None, tokenizer: Tokenizer) -> Environment | None:
    """The environment of a configuration, or None when the policy writes every token."""
    if section is None:
        return None
    from egrc_mega.miniature.environment import NoisyArithmetic

    return NoisyArithmetic(tokenizer, section.probability)
