"""What may write tokens into a response while the policy samples it: a tool, a simulator, a noisy channel."""

import random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Environment(Protocol):
    """Writes some of the tokens of a response."""

    stop_token_ids: tuple[int, ...]
    """Where it may write: generation stops after one of these."""

    def write(self, prompt_ids: NDArray[np.int32], output_ids: NDArray[np.int32], rng: random.Random) -> list[int]:
        """Token ids to append; a pure function of its arguments.

        Args:
            prompt_ids: [P] what the response follows.
            output_ids: [O] the response so far, forced tokens included; its last token is one of `stop_token_ids`.
        """
