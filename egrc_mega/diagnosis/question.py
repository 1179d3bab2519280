"""What is to be diagnosed, and within which bounds."""

from dataclasses import dataclass, field
from pathlib import Path

from egrc_mega.diagnosis.texts import STEP_MARK


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """Bounds of what is asked of the model."""

    max_tokens: int = 200_000
    """Output tokens that are looked at, in the order of the file; the last response is cut where they end."""
    batch_tokens: int = 4096
    """Tokens that go through the model at once."""
    num_block_gradients: int = 256
    """Tokens whose gradient at the last block's parameters is measured."""
    num_full_gradients: int = 64
    """Tokens whose gradient at all parameters is measured: each needs memory for one more copy of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be diagnosed, and how."""

    rollouts: Path
    """A file of responses, a rollout file, or a run's folder: `evaluation.layouts.sampled_responses`."""
    model: Path | None = None
    """Hugging Face folder of the model that sampled them; None: only what texts show."""
    base: Path | None = None
    """Responses from before the compression, to compare with; None: nothing to compare with."""
    out: Path | None = None
    """Folder for the result; None: nothing is written."""
    step_mark: str = STEP_MARK
    """What stands between two steps of reasoning."""
    config: Path | None = None
    """Configuration of the objectives and of the prompt; None: the run's own, where the rollouts are a run's."""
    instruction: str | None = None
    """What follows every problem in the prompt; None: as the configuration says, or nothing."""
    tokens: TokenSettings = field(default_factory=TokenSettings)
    """Bounds of what is asked of the model."""
