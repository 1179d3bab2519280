"""Alarms over the records of a run's steps: values small enough for every checkpoint, and pure functions of them."""

import math
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from pydantic import NonNegativeInt

from egrc_mega.sections.base import Section
from egrc_mega.sections.health import AlarmName, HealthSection

MISMATCH_SHARE = 0.1
"""Of its bound: differences that are smaller are rounding."""


MISMATCH_KL_LEAST = 0.01
"""Nats a token: a smaller divergence leaves 98 of 100 tokens as effective sample, whatever it has grown from."""


class Alarm(Section):
    """Something is wrong: value, bound and remedy in words."""

    name: AlarmName
    """Which of the alarms it is, as `health.stop` calls it."""
    text: str
    """The line for the user."""


class Watched(Section):
    """A figure over the steps so far."""

    window: tuple[float, ...] = ()
    """The last values, oldest first."""
    highest: float | None = None
    """That the mean over a full window has been."""
    lowest: float | None = None
    """That it has been."""
    first: float | None = None
    """The mean over the run's first full window."""


class Health(Section):
    """What the alarms have seen."""

    no_update: NonNegativeInt = 0
    """Steps in a row."""
    truncated: NonNegativeInt = 0
    """Steps in a row in which every response was cut off."""
    no_answer: NonNegativeInt = 0
    """Steps in a row in which next to no response had an answer."""
    length: Watched = Watched()
    """Mean length in tokens."""
    entropy: Watched = Watched()
    """Mean entropy in nats."""
    mismatch: Watched = Watched()
    """Median difference of log-probs between servers and trainer."""
    mismatch_kl: Watched = Watched()
    """Divergence of servers and trainer, nats a token, over all that is trained on."""
    raised: tuple[AlarmName, ...] = ()
    """Alarms whose cause goes on; each has been told."""


def follow(
    health: Health, section: HealthSection, record: Mapping[str, Any], mismatch_bound: float
) -> tuple[Health, list[Alarm]]:
    """The health after one more step, and the alarms that it raises.

    Args:
        record: of the step; what was not measured, None or not finite, leaves its figure where it was.
        mismatch_bound: the bound of the median difference of log-probs.
    """
    no_answer = record.get("no_answer")
    now = Health(
        no_update=0 if record.get("updated") else health.no_update + 1,
        truncated=health.truncated + 1 if record.get("truncated") == 1 else 0,
        no_answer=health.no_answer + 1 if no_answer is not None and no_answer >= section.no_answer_share else 0,
        length=_watched(health.length, record.get("length"), section.window),
        entropy=_watched(health.entropy, record.get("entropy"), section.window),
        mismatch=_watched(health.mismatch, record.get("logprob_diff_median"), section.window),
        mismatch_kl=_watched(health.mismatch_kl, record.get("mismatch_kl"), section.window),
    )
    ill = list(_alarms(now, section, record, mismatch_bound))
    raised: tuple[AlarmName, ...] = tuple(alarm.name for alarm in ill)
    return now.model_copy(update={"raised": raised}), [alarm for alarm in ill if alarm.name not in health.raised]


def _watched(old: Watched, value: Any, size: int) -> Watched:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return old
    window = (*old.window, float(value))[-size:]
    if len(window) < size:
        return old.model_copy(update={"window": window})
    mean = fmean(window)
    known = [each for each in (old.highest, mean) if each is not None]
    least = [each for each in (old.lowest, mean) if each is not None]
    first = mean if old.first is None else old.first
    return Watched(window=window, highest=max(known), lowest=min(least), first=first)


def _alarms(
    health: Health, section: HealthSection, record: Mapping[str, Any], mismatch_bound: float
) -> Iterator[Alarm]:
    """Everything that is ill, told or not."""
    yield from _counted(health, section)
    yield from _collapsed(health, section)
    yield from _grown(health.mismatch, section, mismatch_bound)
    yield from _diverged(health.mismatch_kl, section, record)


def _counted(health: Health, section: HealthSection) -> Iterator[Alarm]:
    if section.no_update_steps and health.no_update >= section.no_update_steps:
        yield Alarm(
            name="no_update",
            text=f"no update for {health.no_update} steps (health.no_update_steps = {section.no_update_steps}): no "
            f"sample had an advantage; look at accuracy, truncated and no_answer, and raise clip_len, n or the cap",
        )
    if section.truncated_steps and health.truncated >= section.truncated_steps:
        yield Alarm(
            name="truncated",
            text=f"every response was cut by the cap for {health.truncated} steps (health.truncated_steps = "
            f"{section.truncated_steps}); raise max_new_tokens or clip_len of the stage",
        )
    if section.no_answer_steps and health.no_answer >= section.no_answer_steps:
        yield Alarm(
            name="no_answer",
            text=f"no answer was found in {section.no_answer_share:.0%} of the responses or more for "
            f"{health.no_answer} steps (health.no_answer_steps = {section.no_answer_steps}); look at some (egrc "
            f"rollouts): an answer stands in \\boxed{{}}, after </think> where thinking began (docs/grading.md)",
        )


def _collapsed(health: Health, section: HealthSection) -> Iterator[Alarm]:
    figures: tuple[tuple[AlarmName, str, Watched, float | None, str], ...] = (
        ("length_collapse", "length", health.length, section.length_share, "raise clip_len or lower the learning rate"),
        (
            "entropy_collapse",
            "entropy",
            health.entropy,
            section.entropy_share,
            "explore at a higher temperature, give the loss an entropy_coef, or lower the learning rate",
        ),
    )
    for name, figure, watched, share, remedy in figures:
        highest = watched.highest
        if share is None or not highest:
            continue
        mean = fmean(watched.window)
        if mean < share * highest:
            yield Alarm(
                name=name,
                text=f"{figure} {mean:.3g} is {mean / highest:.1%} of its highest {highest:.3g} (health.{figure}_share "
                f"= {share:g}, means over {len(watched.window)} steps); {remedy}, from an earlier checkpoint",
            )


def _grown(watched: Watched, section: HealthSection, bound: float) -> Iterator[Alarm]:
    if section.mismatch_factor is None or watched.lowest is None:
        return
    mean = fmean(watched.window)
    if mean >= max(section.mismatch_factor * watched.lowest, MISMATCH_SHARE * bound):
        yield Alarm(
            name="mismatch",
            text=f"log-probs of server and trainer differ by {mean:.3g} in the median, and by {watched.lowest:.3g} at "
            f"their best (health.mismatch_factor = {section.mismatch_factor:g}, bound {bound:g}); set "
            f"sync.verify_every to 1, and compare the servers' weights, dtype and temperature with the trainer's",
        )


def _diverged(watched: Watched, section: HealthSection, record: Mapping[str, Any]) -> Iterator[Alarm]:
    """Against the run's first steps: how far apart engines and kernels are, and how old tokens are, is in those too."""
    if section.mismatch_growth is None or watched.first is None:
        return
    mean = fmean(watched.window)
    if mean >= max(section.mismatch_growth * watched.first, MISMATCH_KL_LEAST):
        ess = record.get("ess_tokens")
        yield Alarm(
            name="mismatch_grows",
            text=f"what is trained on diverges from the trainer by {mean:.3g} nats a token (mismatch_kl), and did by "
            f"{watched.first:.3g} in the run's first steps (health.mismatch_growth = {section.mismatch_growth:g}, "
            f"means over {len(watched.window)} steps{'' if ess is None else f'; ess_tokens {ess:.2f}'}); lower the "
            f"learning rate or the lag of the rollouts, or give the loss a token_mask or sequence_mask, from an "
            f"earlier checkpoint",
        )
