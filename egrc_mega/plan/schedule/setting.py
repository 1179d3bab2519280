"""What is simulated, and what came of it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from egrc_mega.plan.schedule.responses import Responses
from egrc_mega.plan.schedule.server import DecodeLaw, Seconds


@dataclass(frozen=True, slots=True)
class Setting:
    """A fleet and its work."""

    law: DecodeLaw
    num_servers: int
    prompts_per_step: int
    n: int
    """Responses to a prompt."""
    responses: Responses
    prompt_tokens: int
    train_token_s: float
    """Seconds that training takes for each token of a batch, prompts included."""
    write_s: float
    """Seconds that the trainer needs to hand its weights out, while servers go on."""
    load_s: float
    """Seconds that servers need to load them, in which they generate nothing."""
    recomputes: bool = True
    """Whether what runs loses its keys and values with the old weights."""
    max_staleness: int = 2
    """In versions; of the asynchronous mode."""

    def train_s(self, lengths: int, num_responses: int) -> float:
        """Seconds of a batch's training."""
        return self.train_token_s * (lengths + num_responses * self.prompt_tokens)


@dataclass(frozen=True, slots=True)
class Window:
    """Which steps of a stage count: the first find empty servers, and nothing new is begun for the last."""

    num_steps: int
    """Of the stage."""
    warm: int = 0
    """Steps that are taken first, and do not count."""
    cool: int = 0
    """Steps at the end that are not taken."""

    @property
    def end(self) -> int:
        """The first step that is not taken."""
        return self.num_steps - self.cool


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is done."""

    end: float
    wait_s: float
    """From the end of the step before to its batch."""
    train_s: float
    num_tokens: int
    """Of the responses."""
    places: tuple[int, ...]
    """Its problems, by their place in the run."""
    lags: Counter[int]
    """Versions that tokens were old -> number of tokens."""
    oldest: Counter[int]
    """Versions that the oldest token of a group was old -> number of groups."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the steps that count took."""

    steps: list[Step]
    seconds: float
    """From the first one's begin to the last one's end."""
    servers: Seconds
    """Of all servers, within that time."""

    def summary(self, num_gpus: int) -> dict[str, Any]:
        """What a table shows."""
        lags: Counter[int] = sum((step.lags for step in self.steps), Counter())
        oldest: Counter[int] = sum((step.oldest for step in self.steps), Counter())
        return {
            "step_s": self.seconds / len(self.steps),
            "tokens_per_s_per_gpu": lags.total() / self.seconds / num_gpus,
            "trainer_idle": 1 - sum(step.train_s for step in self.steps) / self.seconds,
            "servers_idle": self.servers.idle / self.servers.total,
            "servers_stalled": self.servers.stalled / self.servers.total,
            "tokens_by_lag": _shares(lags),
            "groups_by_oldest_lag": _shares(oldest),
        }


def _shares(counts: Counter[int]) -> dict[str, float]:
    return {str(lag): counts[lag] / counts.total() for lag in sorted(counts)}
