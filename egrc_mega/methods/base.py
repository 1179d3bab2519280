"""The hooks of a method, with the defaults that most methods keep. One object per stage of a run."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from egrc_mega.config.schema import LossSection, StageBase
from egrc_mega.seeds import derive_seed
from egrc_mega.types import Grade, Group, Prompt, RolloutRequest, Sample, Sampling


class Method(ABC):
    """A stage's method. `advantages` sees the whole batch, because some methods compare across groups."""

    loss: LossSection

    def __init__(self, stage: StageBase, max_new_tokens: int) -> None:
        self.stage = stage
        self.max_new_tokens = max_new_tokens

    def plan(
        self, prompts: Sequence[Prompt], *, step: int, run_seed: int, stop_token_ids: tuple[int, ...], first: int = 0
    ) -> list[RolloutRequest]:
        """`n` requests for each prompt, group after group. Ids and seeds depend on the place in the run only.

        Args:
            first: number of the first prompt within the step.
        """
        sampling = Sampling(
            temperature=self.stage.rollout.temperature,
            top_p=self.stage.rollout.top_p,
            max_new_tokens=self.max_new_tokens,
            stop_token_ids=stop_token_ids,
        )
        return [
            RolloutRequest(
                rid=f"step{step:06d}-prompt{p:05d}-sample{n:04d}",
                prompt_id=prompt.id,
                prompt_ids=prompt.token_ids,
                sampling=sampling,
                seed=derive_seed(run_seed, "rollout", step, p, n),
            )
            for p, prompt in enumerate(prompts, first)
            for n in range(self.stage.rollout.n)
        ]

    @abstractmethod
    def reward(self, sample: Sample) -> float:
        """R of a graded sample."""

    @abstractmethod
    def advantages(self, groups: Sequence[Group]) -> list[list[float]]:
        """A of every sample, group by group; 0.0 drops a sample from the update. Ungraded samples always get 0.0."""


def is_right(sample: Sample) -> bool:
    """Right and finished: an answer inside a truncated response does not count (methods: the format gate)."""
    return sample.grade is Grade.RIGHT and not sample.completion.truncated
