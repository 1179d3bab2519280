"""Holds the servers' log-probs against the trainer's before any weight moves: a distribution, not one token.

In bf16 a single token may be off by more than one update moves any, so the largest difference says little; median and
99th percentile are steady from step to step. They find a broken kernel, a wrong temperature or dtype, and weights that
are many updates old. One missed update at a small learning rate is below the noise of bf16: that is what
`sync.verify_every` is for.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from egrc_mega.errors import PolicyError
from egrc_mega.policy.packing import joined
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.sections.policy import PolicySection
from egrc_mega.types import FloatArray, TrainSample

MIN_TOKENS = 256
"""Fewer make no distribution: only the largest difference is held against its bound."""
MAX_SILENT_STEPS = 3
"""Steps in a row without a compared token, then the run warns."""
DEFAULT_BOUNDS = {
    torch.float32: {"median": 1e-4, "p99": 1e-3, "max": 1e-2},
    torch.bfloat16: {"median": 2e-2, "p99": 0.2, "max": 2.0},
}
"""By the dtype of the trainer's weights, where the configuration gives none."""
FIELDS = {
    "median": ("logprob_median_bound", " in the median"),
    "p99": ("logprob_p99_bound", " at the 99th percentile"),
    "max": ("logprob_bound", ""),
}
"""Field of `policy` that bounds a figure, and how a refusal calls the figure."""


class LogprobGate:
    """Collects |server - trainer| over a step's samples and stops the run when a figure exceeds its bound."""

    def __init__(self, section: PolicySection, dtype: torch.dtype) -> None:
        """`dtype` is that of the trainer's weights."""
        self.section = section
        self.bounds = {
            figure: getattr(section, field) or DEFAULT_BOUNDS[dtype][figure] for figure, (field, _how) in FIELDS.items()
        }
        self.differences: FloatArray = np.zeros(0, np.float32)
        self.num_sampled = 0

    def compare(self, samples: Sequence[TrainSample], stats: TokenStats) -> None:
        """Add the tokens that the policy sampled under the trainer's weight version.

        Raises:
            PolicyError: what has been compared so far exceeds a bound; NaN does.
        """
        compared = torch.from_numpy(joined(samples, "compared", np.bool_))
        server = torch.from_numpy(joined(samples, "rollout_logprobs", np.float32))
        found = (server - stats.logprobs)[compared].abs().numpy()
        self.differences = np.concatenate([self.differences, found])
        self.num_sampled += int(joined(samples, "sampled", np.bool_).sum())
        if self.section.logprob_check:
            for refusal in self._refusals():
                raise PolicyError(refusal)

    def _refusals(self) -> Iterator[str]:
        """Figures beyond their bounds, in words. A NaN is beyond any."""
        for figure, value in self._figures().items():
            bound, (field, how) = self.bounds[figure], FIELDS[figure]
            enough = figure == "max" or len(self.differences) >= MIN_TOKENS
            if enough and not value <= bound:
                yield (
                    f"log-probs of server and trainer differ by {value:.3g}{how}, more than policy.{field} = "
                    f"{bound:g}: check the servers' weights, dtype and temperature"
                )

    def _figures(self) -> dict[str, float]:
        if not len(self.differences):
            return {}
        with np.errstate(invalid="ignore"):  # an infinite difference, which no bound lets pass
            median, p99, largest = np.quantile(self.differences, [0.5, 0.99, 1.0]).tolist()
        return {"max": largest, "p99": p99, "median": median}

    def metrics(self) -> dict[str, float | None]:
        """Fields of the step's record; None where nothing was compared."""
        figures = self._figures()
        return {
            **{f"logprob_diff_{figure}": figures.get(figure) for figure in FIELDS},
            "logprob_diff_mean": float(self.differences.mean()) if figures else None,
            "logprob_compared": len(self.differences) / self.num_sampled if self.num_sampled else None,
        }


class GateWatch:
    """Notices when the gate has had nothing to compare for several steps: it then protects nothing."""

    def __init__(self, section: PolicySection) -> None:
        self.section = section
        self.num_silent = 0

    def warning(self, record: Mapping[str, Any]) -> str | None:
        """After a step, from its record: what to say, once each time that the gate has fallen silent."""
        self.num_silent = 0 if record["logprob_compared"] else self.num_silent + 1
        if self.num_silent != MAX_SILENT_STEPS or not self.section.logprob_check:
            return None
        return (
            f"warning: policy.logprob_check has compared no token for {MAX_SILENT_STEPS} steps, because none was "
            f"sampled from the weights that were then trained; sync.verify_every is what finds stale weights now"
        )
