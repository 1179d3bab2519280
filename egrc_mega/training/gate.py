"""Holds the servers' log-probs against the trainer's before any weight moves: a distribution, not one token.

In bf16 a single token may be off by more than one update moves any, so the largest difference says little; median and
99th percentile are steady from step to step. They find a broken kernel, a wrong temperature or dtype, and weights that
are many updates old. One missed update at a small learning rate is below the noise of bf16: that is what
`sync.verify_every` is for.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from egrc_mega.errors import PolicyError
from egrc_mega.policy.packing import joined
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.sampling_mask import join_masks
from egrc_mega.sections.policy import PolicySection
from egrc_mega.types import FloatArray, TrainSample

MIN_TOKENS = 256
"""Fewer make no distribution: only the largest difference is held against its bound."""
MAX_SILENT_STEPS = 3
"""Steps in a row without a compared token, then the run warns."""
LESS_OFTEN = 10
"""The next silence is told when it lasts so many times as long: in asynchronous mode short ones are the rule."""
TREND_STEPS, TREND_FACTOR, TREND_SHARE = 8, 4.0, 0.1
"""A median, averaged over so many steps, warns from so many times its lowest and from this share of its bound on."""
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


def bounds_of(section: PolicySection, dtype: torch.dtype) -> dict[str, float]:
    """The bound of each figure: the section's, or the default for the dtype of the trainer's weights."""
    return {
        figure: getattr(section, field) or DEFAULT_BOUNDS[dtype][figure] for figure, (field, _how) in FIELDS.items()
    }


class LogprobGate:
    """Collects |server - trainer| over a step's samples and stops the run when a figure exceeds its bound."""

    def __init__(self, section: PolicySection, dtype: torch.dtype) -> None:
        """`dtype` is that of the trainer's weights."""
        self.section, self.bounds = section, bounds_of(section, dtype)
        self.differences: FloatArray = np.zeros(0, np.float32)
        self.num_sampled = 0

    def compare(self, samples: Sequence[TrainSample], stats: TokenStats) -> None:
        """Add the tokens that the policy sampled under the trainer's weight version.

        Raises:
            PolicyError: what has been compared so far exceeds a bound; NaN does.
        """
        server = joined(samples, "rollout_logprobs", np.float32)
        difference = np.abs(server - stats.logprobs.numpy())
        # a token that was certain has nothing to tell, unless somebody denies it
        is_telling = _is_open(samples) | (difference != 0)
        is_compared = joined(samples, "compared", np.bool_) & is_telling
        self.differences = np.concatenate([self.differences, difference[is_compared]])
        self.num_sampled += int((joined(samples, "sampled", np.bool_) & is_telling).sum())
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


def _is_open(samples: Sequence[TrainSample]) -> NDArray[np.bool_]:
    """Of all output tokens, those that were not certain: drawn from themselves alone, log-prob 0 whoever says it.

    Where tokens are drawn with top-p these may be most, and would hide all others in a median.
    """
    masks = join_masks([(sample.sampling_mask, len(sample.output_ids)) for sample in samples])
    if masks is None:
        return np.ones(sum(len(sample.output_ids) for sample in samples), np.bool_)
    return np.asarray(masks.counts != 1)


class GateWatch:
    """Looks at the gate over many steps: whether it has anything to compare, and whether the differences grow.

    Both are warnings, for a policy that grows uncertain moves the differences too. A resumed run begins anew.
    """

    def __init__(self, section: PolicySection, dtype: torch.dtype) -> None:
        """`dtype` is that of the trainer's weights."""
        self.section, self.bound = section, bounds_of(section, dtype)["median"]
        self.num_silent, self.patience = 0, MAX_SILENT_STEPS
        self.medians: deque[float] = deque(maxlen=TREND_STEPS)
        self.lowest = math.inf

    def warnings(self, record: Mapping[str, Any]) -> Iterator[str]:
        """After a step, from its record: what to say; each once, until what it is about has ended and begins again."""
        if self.section.logprob_check:
            yield from self._silence(record["logprob_compared"])
            yield from self._trend(record["logprob_diff_median"])

    def _silence(self, compared: float | None) -> Iterator[str]:
        self.num_silent = 0 if compared else self.num_silent + 1
        if self.num_silent == self.patience:
            self.patience *= LESS_OFTEN
            yield (
                f"warning: policy.logprob_check has compared no token for {self.num_silent} steps, because none was "
                f"sampled from the weights that were then trained; sync.verify_every is what finds stale weights now"
            )

    def _trend(self, median: float | None) -> Iterator[str]:
        if median is None:
            return
        self.medians.append(median)
        if len(self.medians) < TREND_STEPS:
            return
        mean, lowest = fmean(self.medians), self.lowest
        self.lowest = min(lowest, mean)
        if mean >= max(TREND_FACTOR * lowest, TREND_SHARE * self.bound):
            self.lowest = mean  # what is said is the new measure
            yield (
                f"warning: log-probs of server and trainer differ by {mean:.3g} in the median, over {TREND_STEPS} "
                f"steps, and by {lowest:.3g} at their best: weights that fall behind look so, and entropy that grows; "
                f"compare `entropy`, and see that sync.verify_every is 1"
            )
