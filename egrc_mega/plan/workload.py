"""What each stage of a configuration asks of the GPUs, and what has to be assumed of its texts."""

from dataclasses import dataclass

from egrc_mega.config.config import Config
from egrc_mega.errors import ConfigError
from egrc_mega.methods.method import build_method
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.training_time import Work
from egrc_mega.sections.stage import StageSection

PROMPT_TOKENS = 128
"""Of a problem of mathematics with its template: 98 to 133 in the published rows of `published.json`."""
MEAN_SHARE = 0.5
"""Of the cap, where nobody says how long responses are: half of it."""


@dataclass(frozen=True, slots=True)
class StageWork:
    """A stage, as the planner sees it."""

    name: str
    steps: int
    longest: int
    """Tokens that a response may have."""
    work: Work


def stage_works(config: Config, mean_tokens: float | None, prompt_tokens: int | None) -> list[StageWork]:
    """The stages of a run in order.

    Args:
        mean_tokens: mean length of responses in every stage; None: half of each stage's cap.
        prompt_tokens: of a prompt; None: `PROMPT_TOKENS`.

    Raises:
        ConfigError: the mean is not below a stage's cap.
    """
    prompt = PROMPT_TOKENS if prompt_tokens is None else prompt_tokens
    return [_stage_work(config, stage, mean_tokens, prompt) for stage in config.stages]


def _stage_work(config: Config, stage: StageSection, mean_tokens: float | None, prompt: int) -> StageWork:
    method = build_method(stage)
    longest = method.longest
    if mean_tokens is not None and not 0 < mean_tokens < longest:
        raise ConfigError(
            f"--mean-tokens: {mean_tokens:g}, must lie above 0 and below {longest}, where responses of stage "
            f"{stage.name} end"
        )
    mean = MEAN_SHARE * longest if mean_tokens is None else mean_tokens
    updates = stage.optim.num_updates_per_rollout
    # old log-probs are scored where there are several updates, the reference's where loss or method look at it
    looks_back = stage.loss.needs_reference or bool(method.needs & {"reference_logprobs", "reference_kl"})
    scorings = int(updates > 1) + int(looks_back)
    responses = config.rollout.prompts_per_step * stage.rollout.n
    work = Work(responses, Lengths(mean, longest), prompt, updates, scorings)
    return StageWork(stage.name, stage.steps, longest, work)
