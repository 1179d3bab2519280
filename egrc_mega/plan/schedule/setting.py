"""What is simulated, and what came of it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from egrc_mega.plan.schedule.responses import Responses
from egrc_mega.plan.schedule.server import DecodeLaw


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


@dataclass(slots=True)
class Outcome:
    """A run of some steps. Shares are of the time between the first step that counts and the last."""

    steps: list[Step] = field(default_factory=list)
    server_seconds: dict[str, float] = field(default_factory=dict)
    """Of all servers: generating, stalled, idle."""
    seconds: float = 0.0
    num_generated: float = 0.0
    """Tokens, trained or not."""

    def summary(self, num_gpus: int) -> dict[str, Any]:
        """What a table shows."""
        trained = sum(step.num_tokens for step in self.steps)
        lags: Counter[int] = sum((step.lags for step in self.steps), Counter())
        oldest: Counter[int] = sum((step.oldest for step in self.steps), Counter())
        servers = sum(self.server_seconds.values())
        return {
            "step_s": self.seconds / len(self.steps),
            "tokens_per_s_per_gpu": trained / self.seconds / num_gpus,
            "trainer_idle": 1 - sum(step.train_s for step in self.steps) / self.seconds,
            "servers_idle": self.server_seconds["idle"] / servers,
            "servers_stalled": self.server_seconds["stalled"] / servers,
            "tokens_by_lag": _shares(lags),
            "groups_by_oldest_lag": _shares(oldest),
        }


def _shares(counts: Counter[int]) -> dict[str, float]:
    return {str(lag): counts[lag] / counts.total() for lag in sorted(counts)}
