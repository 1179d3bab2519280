"""What a run that has gone ill looks like, and whether that ends it."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from egrc_mega.sections.base import Section

AlarmName = Literal[
    "no_update", "truncated", "no_answer", "length_collapse", "entropy_collapse", "mismatch", "mismatch_grows"
]
Share = Annotated[float, Field(gt=0, le=1)]


class HealthSection(Section):
    """Alarms over the steps' records. Each warns once, until what it is about has ended and begins again."""

    no_update_steps: PositiveInt | None = 5
    """`no_update`: no sample taught anything for so many steps in a row. None: never an alarm."""
    truncated_steps: PositiveInt | None = 3
    """`truncated`: every response was cut by the cap for so many steps in a row. None: never an alarm."""
    no_answer_share: Share = 0.98
    """`no_answer`: in at least this share of the responses nothing was found to judge..."""
    no_answer_steps: PositiveInt | None = 3
    """... for so many steps in a row. None: never an alarm."""
    window: PositiveInt = 8
    """Steps over which the means of the alarms below are taken."""
    length_share: Share | None = 0.1
    """`length_collapse`: the mean length is below this share of its highest in the run. None: never an alarm."""
    entropy_share: Share | None = 0.1
    """`entropy_collapse`: the same of the token entropy at temperature 1. None: never an alarm."""
    mismatch_factor: Annotated[float, Field(gt=1)] | None = 10.0
    """`mismatch`: the median |server - trainer| of log-probs has grown to so many times its lowest in the run, and to a
    tenth of its bound (policy.logprob_median_bound). None: never an alarm."""
    mismatch_growth: Annotated[float, Field(gt=1)] | None = 10.0
    """`mismatch_grows`: over all that is trained on, tokens of older weights too, the divergence of servers and trainer
    (`mismatch_kl`) has grown to so many times its mean over the run's first `window` steps, and to 0.01 nats a token.
    None: never an alarm."""
    stop: tuple[AlarmName, ...] = ()
    """Alarms that end the run, after a checkpoint, with exit code 12; the others only warn."""
