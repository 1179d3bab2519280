"""What passes between a run and its method beside the samples: what a sample teaches, and where the stage stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edit:
    """Other tokens to train on than were sampled (LC-R1 crops a response).

    The servers' log-probs hold for the tokens before the first change only; after it there is nothing to compare with.
    """

    output_ids: IntArray
    """int32[E], the whole response after the edit."""
    first_changed: int
    """Index of the first token that differs from the sampled response."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credit:
    """What one sample teaches. That a sample is dropped is said by `kept`, never meant by an advantage of zero."""

    advantage: float | FloatArray = 0.0
    """One number for the whole response, or one for each of its tokens (after an edit, of the edited response)."""
    reward: float | None = None
    """R, for the step's record; None where the sample was not judged."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Named parts of the reward, for the record and the rollouts on disk."""
    kept: bool = True
    """False: the sample is scored for entropies and the log-prob check, and not trained on."""
    token_class: IntArray | None = None
    """Class of each token, an index into `loss.class_weights`; None: all tokens are of class 0."""
    forced_logprob: float | None = None
    """Train the forced tokens as if each had been drawn with this log-prob; None: they are not trained."""
    edit: Edit | None = None
    """None: the response is trained as it was sampled."""


DROPPED = Credit(kept=False)
"""The credit of a sample that teaches nothing and has no reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where a stage stands when a hook is called; the same after a resume."""

    step: int
    """Of this stage, from 0."""
    state: Any
    """The method's own state, an instance of its `State`."""
    seed: int
    """The run's seed: with `seeds.derive_seed` every random choice of a method is a function of its place."""
