"""A-DLP: a price a token that rises while the batch is more accurate than a target, and falls while it is less.

R = c - price |y|, for all responses        A = (R - mean R) / (std R + eps)
after the step's rewards: price <- max(0, price + rate (accuracy of the batch - target))

Source: arXiv 2505.18298; JinyanSu1/A-DLP afbc411, verl/verl/trainer/main_ppo.py: 136-147, ray_trainer.py: 639-643, its
script: price 1e-3 at the begin, rate 1e-3, target .62, groups of 4, 64 prompts (the yaml's defaults: .1, .01, .6).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import NonNegativeFloat

from egrc_mega.methods.comparing import Comparing, ComparingSection
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.base import Section
from egrc_mega.types import Group, Sample


class AdlpSection(ComparingSection):
    """A stage of A-DLP (arXiv 2505.18298)."""

    method: Literal["a_dlp"] = "a_dlp"
    """Which method the stage trains with."""
    initial_price: NonNegativeFloat = 1e-3
    """What a token costs in the first step."""
    rate: NonNegativeFloat = 1e-3
    """How much the price moves for a batch that is wholly right or wrong against the target."""
    target: float = 0.62
    """The accuracy at which the price stands still: the model's before training."""


class AdlpState(Section):
    """The price of a token, which moves with the accuracy."""

    price: float | None = None
    """Of a token; None: no step has been taken."""


class Adlp(Comparing[AdlpSection, AdlpState]):
    """Accuracy less a price for length that accuracy itself sets."""

    Config, State = AdlpSection, AdlpState
    source = "A-DLP, arXiv 2505.18298; JinyanSu1/A-DLP"

    def worth(self, samples: Sequence[Sample], view: View) -> Sequence[Mapping[str, float]]:
        """Accuracy, and the price of every token."""
        price = self._price(view)
        return [{"answer": float(sample.right), "length": -price * sample.length} for sample in samples]

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """The price that was paid."""
        return {"price": self._price(view)}

    def after_step(self, view: View, record: Mapping[str, Any]) -> AdlpState:
        """The price of the next step; it stays where nothing was judged."""
        gap = 0.0 if record["accuracy"] is None else record["accuracy"] - self.section.target
        return AdlpState(price=max(0.0, self._price(view) + self.section.rate * gap))

    def _price(self, view: View) -> float:
        price: float | None = view.state.price
        return self.section.initial_price if price is None else price
